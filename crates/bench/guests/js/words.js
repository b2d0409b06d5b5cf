// Counts how often each word occurs.

addEventListener("fetch", (event) => event.respondWith(count(event.request)));

async function count(request) {
  const text = (await request.text()) || "a b a";
  const words = new Map();
  for (const word of text.split(/\s+/).filter(Boolean)) {
    words.set(word, (words.get(word) ?? 0) + 1);
  }
  return new Response([...words].map(([word, times]) => `${word} ${times}\n`).join(""));
}

// Lays out JSON.

addEventListener("fetch", (event) => event.respondWith(pretty(event.request)));

async function pretty(request) {
  const text = (await request.text()) || '{"a":[1,2]}';
  try {
    return new Response(JSON.stringify(JSON.parse(text), null, 2));
  } catch (error) {
    return new Response(`${error.message}\n`, { status: 400 });
  }
}

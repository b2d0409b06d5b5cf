// Greets.

addEventListener("fetch", (event) => {
  const name = new URL(event.request.url).searchParams.get("name") ?? "world";
  event.respondWith(new Response(`Hello, ${name}!\n`));
});

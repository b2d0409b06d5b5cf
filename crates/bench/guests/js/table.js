// Comma-separated values as a table of HTML.

addEventListener("fetch", (event) => event.respondWith(table(event.request)));

const escape = (text) => text.replace(/[&<>]/g, (character) => `&#${character.charCodeAt(0)};`);

async function table(request) {
  const text = (await request.text()) || "sensor,value\ns1,21.5\n";
  const rows = text.trim().split("\n").map((line) => line.split(",").map((cell) => `<td>${escape(cell)}</td>`).join(""));
  const html = `<table>${rows.map((row) => `<tr>${row}</tr>`).join("\n")}</table>\n`;
  return new Response(html, { headers: { "content-type": "text/html" } });
}

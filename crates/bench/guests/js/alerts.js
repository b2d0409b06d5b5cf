// Tells which readings are above a limit.

const LIMIT = 90;

addEventListener("fetch", (event) => event.respondWith(alerts(event.request)));

async function alerts(request) {
  const readings = JSON.parse((await request.text()) || '[{"sensor":"s1","value":99.5},{"sensor":"s2","value":12}]');
  return new Response(JSON.stringify(readings.filter((reading) => reading.value > LIMIT)));
}

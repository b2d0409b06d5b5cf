/** `hello`: a function that answers HTTP requests. */
import { getEnvironment } from "wasi:cli/environment@0.2.10";

import { greet } from "./greeting.js";

async function hello(request) {
  const config = Object.fromEntries(getEnvironment());
  const [status, body] = greet(config.GREETING ?? "Hello", await request.text());
  return Response.json(body, { status });
}

addEventListener("fetch", (event) => event.respondWith(hello(event.request)));

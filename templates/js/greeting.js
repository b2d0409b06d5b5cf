/** What `hello` answers: the status and the JSON that greet whoever the request names, `{"name": "Ada"}`. */
export function greet(greeting, body) {
  let request = {};
  try {
    if (body) request = JSON.parse(body);
  } catch (error) {
    return [400, { error: `the body is not JSON: ${error.message}` }];
  }
  return [200, { greeting: `${greeting}, ${request?.name ?? "world"}!` }];
}

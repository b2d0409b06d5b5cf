import assert from "node:assert/strict";
import { test } from "node:test";

import { greet } from "./greeting.js";

test("it greets by name", () => {
  assert.deepEqual(greet("Hello", '{"name": "Ada"}'), [200, { greeting: "Hello, Ada!" }]);
  assert.deepEqual(greet("Hello", ""), [200, { greeting: "Hello, world!" }]);
});

test("what is no JSON is refused", () => {
  assert.equal(greet("Hello", "{")[0], 400);
});

// What the components of bench-http answer (guests/work), for workerd.

const HELLO = "Hello from the bench!\n";
const BIG = new Uint8Array(1 << 20).fill(120);
const SPIN_STEPS = 6_500_000;

function spin(steps) {
  let state = 2463534242 | 0;
  for (let step = 0; step < steps; step++) {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
  }
  return state >>> 0;
}

export default {
  fetch(request) {
    switch (new URL(request.url).pathname) {
      case "/big":
        return new Response(BIG);
      case "/cpu":
        return new Response(`${spin(SPIN_STEPS)}\n`);
      default:
        return new Response(HELLO);
    }
  },
};

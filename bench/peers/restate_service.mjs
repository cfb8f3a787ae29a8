// The service that Restate calls: `node restate_service.mjs PORT`, one process over http2.
// Resolved from the environment that bench/environments.py has installed (working directory).
import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";

// Node 20 has none; newer ones do.
Promise.withResolvers ??= function () {
  let resolve, reject;
  const promise = new this((yes, no) => ((resolve = yes), (reject = no)));
  return { promise, resolve, reject };
};

const require = createRequire(`${process.env.PEER_FOLDER}/package.json`);
const restate = await import(pathToFileURL(require.resolve("@restatedev/restate-sdk")));

const bench = restate.service({
  name: "bench",
  handlers: {
    // Ten steps one after the other.
    chain: async (ctx, length) => {
      let value = 0;
      for (let i = 0; i < length; i++) {
        const now = value;
        value = await ctx.run("increment", () => now + 1);
      }
      return value;
    },
    noop: async (ctx, value) => value,
    // Seconds since a moment that the caller gives, in seconds since the epoch.
    reached: async (ctx, sent) => (performance.timeOrigin + performance.now()) / 1000 - sent,
  },
});

restate.serve({ services: [bench], port: Number(process.argv[2]) });

// A Node.js server whose workers talk. The staged drain is in examples/node.
//
//     /shout?text=...                another worker's /heard has it
//     /heard                         what this worker has heard
//     /ask?worker=17                 that worker's pid, by a request
//     /flags?name=dark&value=true    a retained value: every worker has it, those of the next reload too
//     /flags                         all of them

const { execFile } = require("node:child_process");
const http = require("node:http");
const bus = require("./bus");

const heard = [];
bus.on("shout", (text, sender) => heard.push({ text, sender }) && null);
bus.on("pid", () => process.pid);

const server = http.createServer(async (request, response) => {
  const url = new URL(request.url, "http://localhost");
  const query = Object.fromEntries(url.searchParams);
  let found = null;
  try {
    if (url.pathname === "/shout") bus.broadcast("shout", query.text);
    else if (url.pathname === "/heard") found = heard;
    else if (url.pathname === "/ask") found = await bus.request(Number(query.worker), "pid");
    else if (query.name) await bus.publish("flags", { ...bus.value("flags"), [query.name]: query.value });
    else found = bus.value("flags") ?? {};
  } catch (error) {
    response.statusCode = 502;
    found = error.message;
  }
  response.end(JSON.stringify({ worker: Number(process.env.CLUSTERD_WORKER), found }) + "\n");
});
process.once("SIGTERM", () => server.close(() => process.exit(0)));

bus.ready.then(() =>
  server.listen(process.env.LISTEN_FDS ? { fd: 3, backlog: 4096 } : { port: 8000 }, () => {
    if (process.env.NOTIFY_SOCKET) execFile("systemd-notify", ["--ready"], (error) => error && console.error(error.message));
  }),
);

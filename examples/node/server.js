// A Node.js server under clusterd: it takes its socket from systemd, says when it is ready, and drains in stages.
//
//     /                      who answered
//     /pid                   the worker's process
//     /sleep?seconds=1       an answer that takes its time: it survives a reload
//     /healthz               what a load balancer asks

const { execFile } = require("node:child_process");
const http = require("node:http");
const net = require("node:net");

const GREETING = "hello";
const LINGER = Number(process.env.LINGER ?? 5) * 1000; // as long as clients may believe that a connection is kept

const server = http.createServer((request, response) => {
  const url = new URL(request.url, "http://localhost");
  const answer = (text) => response.end(text + "\n");
  if (url.pathname === "/pid") answer(process.pid);
  else if (url.pathname === "/healthz") answer("ok");
  else if (url.pathname === "/sleep") {
    const seconds = Math.min(Number(url.searchParams.get("seconds") ?? 1), 60);
    setTimeout(answer, seconds * 1000, `slept ${seconds} s`);
  } else answer(`${GREETING} from worker ${process.env.CLUSTERD_WORKER}, slot ${process.env.CLUSTERD_SLOT}`);
});
server.keepAliveTimeout = LINGER;

// The staged drain. The successor listens on the same socket, so what is queued there is not lost.
const sockets = new Set();
const responses = new Set();
let draining = false;
server.on("connection", (socket) => {
  sockets.add(socket);
  socket.on("close", () => sockets.delete(socket));
});
server.prependListener("request", (request, response) => {
  response.shouldKeepAlive &&= !draining; // that is "Connection: close"
  responses.add(response);
  response.on("close", () => responses.delete(response));
});
process.once("SIGTERM", () => {
  draining = true;
  net.Server.prototype.close.call(server, () => process.exit(0)); // http's own close() cuts idle connections at once
  for (const response of responses) if (!response.headersSent) response.shouldKeepAlive = false;
  setTimeout(letGo, LINGER);
});
function letGo() {
  // To Node a connection is idle once its answer was handed over, though the client may read it for long yet.
  const leaving = [...responses].find((response) => response.writableEnded);
  if (leaving) return leaving.once("close", letGo);
  server.closeIdleConnections();
  for (const socket of sockets) if (socket.bytesRead === 0) socket.destroy(); // never asked anything
}

server.listen(process.env.LISTEN_FDS ? { fd: 3, backlog: 4096 } : { port: 8000 }, () => {
  // Node has no datagram sockets of the UNIX kind, systemd has a program for that.
  if (process.env.NOTIFY_SOCKET) execFile("systemd-notify", ["--ready"], (error) => error && console.error(error.message));
});

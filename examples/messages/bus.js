// Messages between the workers of clusterd, for Node.js: a file to copy. docs/messages-and-state.md has what it promises.
//
//     const bus = require("./bus");
//     bus.on("shout", (data, sender) => ...);       what it returns, or resolves to, answers a request
//     bus.broadcast("shout", { text: "hello" });    to every other worker
//     bus.send(17, "shout", data);                  to one
//     await bus.request(17, "sum", [1, 2]);         and its answer
//     await bus.publish("flags", { dark: true });   to all, and to those yet to be born: a retained value
//     bus.value("flags");                           the last one; all are there once `await bus.ready` is over
//     bus.watch("flags", (value) => ...);           called with the present value and each that follows

const net = require("node:net");

const handlers = new Map();
const values = new Map();
const watches = new Map();
const waiting = new Map(); // number -> { resolve, reject }
let numbers = 0;
let current;
const ready = new Promise((resolve) => (current = resolve)).then(() => {
  socket?.unref(); // a worker that has drained ends, though it listens here still
});

const fd = process.env.CLUSTERD_CHANNEL_FD;
const socket = fd === undefined ? undefined : new net.Socket({ fd: Number(fd), readable: true, writable: true });

function say(message) {
  socket?.write(JSON.stringify(message) + "\0");
}

function introduce() {
  for (const topic of handlers.keys()) say({ op: "on", topic });
  say({ op: "values" });
}

function asked(message) {
  return new Promise((resolve, reject) => {
    const number = ++numbers;
    waiting.set(number, { resolve, reject });
    say({ ...message, number });
  });
}

function settle(number, error, data) {
  const waiter = waiting.get(number);
  waiting.delete(number);
  if (error !== undefined) waiter?.reject(new Error(error));
  else waiter?.resolve(data);
}

async function answer({ from, number, topic, data }) {
  const reply = { op: "answer", to: from, number };
  try {
    say({ ...reply, data: (await handlers.get(topic)(data, from)) ?? null });
  } catch (error) {
    say({ ...reply, error: String(error) });
  }
}

function take(message) {
  if (message.op === "broadcast" || message.op === "send") handlers.get(message.topic)?.(message.data, message.from);
  else if (message.op === "request") answer(message);
  else if (message.op === "answer") settle(message.number, message.error, message.data);
  else if (message.event === "done") settle(message.number);
  else if (message.event === "failed") settle(message.number, message.text);
  else if (message.event === "current") current();
  else if (message.event === "again") introduce(); // another master
  else if (message.event === "lost") console.error(`${message.count} messages were lost: this worker read too slowly`);
  else if (message.event === "value") {
    values.set(message.key, message.value);
    watches.get(message.key)?.(message.value);
  }
}

let parts = []; // of a message that is not whole yet
socket?.on("data", (data) => {
  let end;
  while ((end = data.indexOf(0)) >= 0) {
    const frame = Buffer.concat([...parts, data.subarray(0, end)]).toString();
    parts = [];
    data = data.subarray(end + 1);
    let message;
    try {
      message = JSON.parse(frame);
    } catch {
      continue; // half a message of a master that died
    }
    take(message);
  }
  if (data.length) parts.push(data);
});
socket?.on("error", () => {}); // the cluster is gone, and this worker about to be

if (socket) introduce();
else current();

module.exports = {
  ready,
  on(topic, handler) {
    if (!handlers.has(topic)) say({ op: "on", topic });
    handlers.set(topic, handler);
  },
  broadcast: (topic, data = null) => say({ op: "broadcast", topic, data }),
  send: (to, topic, data = null) => say({ op: "send", to, topic, data }),
  request: (to, topic, data = null) => asked({ op: "request", to, topic, data }),
  publish: (key, value) => asked({ op: "publish", key, value }),
  value: (key) => values.get(key),
  watch(key, handler) {
    watches.set(key, handler);
    if (values.has(key)) handler(values.get(key));
  },
};

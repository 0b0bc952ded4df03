// The same application as a classic Node cluster: the primary forks N workers that share the port, starts another for each
// that dies, and on SIGUSR2 replaces them one after the other with disconnect().
// Usage: node bench_cluster.js PORT WORKERS
'use strict';
const cluster = require('node:cluster');
const http = require('node:http');

const [port, count] = process.argv.slice(2).map(Number);
const LOOPS = 300_000; // about as long as the Python loop
const DIE = Number(process.env.BENCH_DIE || 0);

function burn() {
  let x = 0;
  for (let i = 0; i < LOOPS; i++) x = (x + i) % 1000003;
  return x;
}

function primary() {
  for (let i = 0; i < count; i++) cluster.fork();
  cluster.on('exit', (worker) => {
    if (!worker.exitedAfterDisconnect) cluster.fork();
  });
  process.on('SIGUSR2', () => replace(Object.values(cluster.workers)));
}

function replace([worker, ...others]) {
  if (!worker) return;
  worker.on('exit', () => {
    if (!worker.exitedAfterDisconnect) return;
    cluster.fork().on('listening', () => replace(others));
  });
  worker.disconnect();
}

function serve() {
  http.createServer((request, response) => {
    const body = request.url === '/cpu' ? String(burn()) : 'hello';
    response.writeHead(200, { 'Content-Type': 'text/plain', 'Content-Length': Buffer.byteLength(body) });
    response.end(body);
  }).listen(port, '127.0.0.1');
  if (DIE) setTimeout(() => process.exit(1), Math.random() * DIE * 1000);
}

(cluster.isPrimary ? primary : serve)();

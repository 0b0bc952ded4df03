// The same application for Node: bench_cluster.js forks it, and so does PM2 with its cluster mode.
'use strict';
const http = require('node:http');

const LOOPS = 300_000; // about as long as the Python loop
const DIE = Number(process.env.BENCH_DIE || 0);
const HEAP = Number(process.env.BENCH_HEAP || 0);
const BLOB = Number(process.env.BENCH_BLOB || 0);
const records = [];
const blob = Buffer.alloc(BLOB, 'not zeros');

function ballast() {
  const enough = process.memoryUsage().rss + HEAP;
  while (HEAP && process.memoryUsage().rss < enough) {
    for (let i = 0; i < 1000; i++) {
      const n = records.length;
      records.push({ id: n, name: `record ${n}`, tags: [String(n), String(n + 1)], price: n / 7 });
    }
  }
}

function burn() {
  let x = 0;
  for (let i = 0; i < LOOPS; i++) x = (x + i) % 1000003;
  return x;
}

function touch() {
  let total = 0;
  for (let i = 0; i < blob.length; i += 4096) total += blob[i];
  for (const record of records) {
    total += record.name.length + record.tags[0].length + Math.floor(record.price);
  }
  return total && process.pid;
}

const paths = { '/cpu': burn, '/touch': touch, '/pid': () => process.pid };

ballast();
const server = http.createServer((request, response) => {
  const body = request.url in paths ? String(paths[request.url]()) : 'hello';
  response.writeHead(200, { 'Content-Type': 'text/plain', 'Content-Length': Buffer.byteLength(body) });
  response.end(body);
}).listen(Number(process.env.PORT), '127.0.0.1');
// PM2's signal to stop, answered as its documentation asks for
process.on('SIGINT', () => server.close(() => process.exit(0)));
if (DIE) setTimeout(() => process.exit(1), Math.random() * DIE * 1000);

// bench_server.js as a classic Node cluster: the primary forks N workers that share the port, starts another for each
// that dies, and on SIGUSR2 replaces them one after the other with disconnect().
// Usage: PORT=... node bench_cluster.js WORKERS
'use strict';
const cluster = require('node:cluster');

function primary(count) {
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

if (cluster.isPrimary) primary(Number(process.argv[2]));
else require('./bench_server.js');

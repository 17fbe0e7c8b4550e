'use strict';
// Says how long things take.
//
//   node server.js          serves on port 8080: GET /?span=2h
//   node server.js --once   asks itself a few questions, prints the answers and ends

const http = require('node:http');
const escapeHtml = require('escape-html');
const ms = require('ms');

function answer(url) {
  const span = new URL(url, 'http://localhost').searchParams.get('span');
  if (!span) return [400, 'which span?'];
  let milliseconds;
  try {
    milliseconds = ms(span);
  } catch {
    milliseconds = undefined;
  }
  if (milliseconds === undefined) return [400, `${escapeHtml(span)} is no span of time`];
  return [200, `${escapeHtml(span)} is ${milliseconds} ms, or ${ms(milliseconds, { long: true })}`];
}

const server = http.createServer((request, response) => {
  const [status, text] = answer(request.url);
  response.writeHead(status, { 'content-type': 'text/html; charset=utf-8' });
  response.end(`${text}\n`);
});

async function once() {
  await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve));
  for (const path of ['/?span=2h', '/?span=90s', '/?span=<b>', '/']) {
    const response = await fetch(`http://127.0.0.1:${server.address().port}${path}`);
    console.log(`GET ${path}: ${response.status} ${(await response.text()).trim()}`);
  }
  server.close();
  server.closeAllConnections();
}

if (process.argv.includes('--once')) once();
else {
  for (const signal of ['SIGINT', 'SIGTERM']) process.on(signal, () => process.exit(0));
  server.listen(8080, () => console.log('listening on port 8080'));
}

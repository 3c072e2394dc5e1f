'use strict';
// The soak's worker of the official Node.js client. See run.py for the protocol.
const readline = require('node:readline');
const rmq = require('rocketmq-client-nodejs');
const { TransactionResolution } = require(require('node:path').dirname(
  require.resolve('rocketmq-client-nodejs/package.json')) + '/proto/apache/rocketmq/v2/definition_pb.js');

const [ endpoint, name, rate, , topicsJson ] = process.argv.slice(2);
const topics = JSON.parse(topicsJson);
const quiet = { info() {}, debug() {}, warn() {}, error() {}, close() {} };
const base = { endpoints: endpoint, namespace: '', logger: quiet };
const sleep = ms => new Promise(r => setTimeout(r, ms));
const pick = n => Math.floor(Math.random() * n);
const now = () => BigInt(Math.round((performance.timeOrigin + performance.now()) * 1e6));
let sending = true, running = true;

function say(op, body, more = {}) {
  const { at = now(), since, ...rest } = more;
  let line = JSON.stringify({ op, body, ...rest }).slice(0, -1) + `,"at":${at}`;
  if (since !== undefined) line += `,"since":${since}`;
  process.stdout.write(line + '}\n');
}
const complain = (what, error) => process.stderr.write(`${name} ${what}: ${error}\n`);

async function persist(make) {
  for (;;) {
    const client = make();
    try {
      await client.startup();
      return client;
    } catch (error) {
      complain('start', error);
      await sleep(1000);
    }
  }
}
const checker = {
  async check(m) { return m.body.toString().endsWith(':r') ? TransactionResolution.ROLLBACK : TransactionResolution.COMMIT; },
};

async function produce(kind, topic) {
  const producer = await persist(() => new rmq.Producer({ ...base, topics: [ topic ], checker }));
  for (let number = 1; sending; number++) {
    await sleep(-Math.log(1 - Math.random()) * 1000 * Object.keys(topics).length / Number(rate));
    const fate = kind === 'transaction' ? 'cccccccuur'[pick(10)] : 'c', lane = pick(5);
    const body = `${name}:${kind}:${lane}:${number}:${fate}`;
    const message = { topic, body: Buffer.from(body) };
    if (kind === 'fifo') message.messageGroup = `${name}-${lane}`;
    if (kind === 'delay') message.deliveryTimestamp = new Date(Math.ceil(Date.now() / 1000) * 1000 + 1000 * (2 + pick(6)));
    const since = now();
    let transaction;
    try {
      transaction = kind === 'transaction' ? producer.beginTransaction() : undefined;
      await producer.send(message, transaction);
    } catch (error) {
      say('unsent', body, { since });
      complain('send', error);
      await sleep(200);
      continue;
    }
    say('sent', body, { since });
    if (transaction && fate !== 'u') {
      try {
        await (fate === 'c' ? transaction.commit() : transaction.rollback());
      } catch (error) { // then the check-back decides
        complain('end', error);
      }
    }
  }
}

async function consume(kind, topic, group) {
  const consumer = await persist(() => new rmq.SimpleConsumer({
    ...base, consumerGroup: group, subscriptions: new Map([[ topic, '*' ]]), awaitDuration: 5000 }));
  while (running) {
    let messages;
    try {
      messages = await consumer.receive(8, 10000);
    } catch (error) {
      complain('receive', error);
      await sleep(500);
      continue;
    }
    for (const m of messages) {
      const body = m.body.toString();
      const due = kind === 'delay' && m.deliveryTimestamp ? m.deliveryTimestamp.getTime() : null;
      say('got', body, { group, attempt: m.deliveryAttempt, due });
      const fate = Math.random();
      try {
        if (fate < 0.03) continue; // its time runs out
        if (fate < 0.06) {
          await consumer.changeInvisibleDuration(m, 1000);
          continue;
        }
        await consumer.ack(m);
        say('acked', body, { group });
      } catch (error) {
        say('settled', body, { group });
        complain('ack', error);
      }
    }
  }
}

process.on('unhandledRejection', error => complain('unhandled', error));
for (const [ kind, [ topic, group ]] of Object.entries(topics)) {
  produce(kind, topic);
  consume(kind, topic, group);
}
const input = readline.createInterface({ input: process.stdin });
input.on('line', () => { sending = false; });
input.on('close', async () => { sending = running = false; await sleep(6000); process.exit(0); });

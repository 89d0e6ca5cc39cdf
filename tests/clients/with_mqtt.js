// MQTT.js, driven line by line: a command as JSON on standard input, answers and messages as JSON on standard output.
// It reconnects and sends again by itself, as MQTT.js does.

const readline = require('readline')
const mqtt = require('mqtt')

const say = (what) => process.stdout.write(JSON.stringify(what) + '\n')
let client

function connect ({ host, port, version, id, clean, will }) {
  const options = { host, port, clientId: id, clean, protocolVersion: version, reconnectPeriod: 100, keepalive: 30 }
  if (version === 5) options.properties = { sessionExpiryInterval: clean ? 0 : 3600 }
  if (will) options.will = { topic: will.topic, payload: will.payload, qos: 1, retain: false }
  client = mqtt.connect(options)
  client.on('connect', (connack) => {
    say({ connected: connack.sessionPresent, code: connack.reasonCode || connack.returnCode || 0 })
  })
  client.on('message', (topic, payload, packet) => {
    say({ topic, payload: payload.toString(), qos: packet.qos, retain: packet.retain })
  })
  client.on('error', (error) => process.stderr.write(error + '\n'))
}

const commands = {
  connect,
  subscribe: ({ filter, qos }) => client.subscribe(filter, { qos }, (error, granted) => {
    say({ subscribed: error ? [128] : granted.map((g) => g.qos) })
  }),
  publish: ({ topic, payloads, qos, retain }) => {
    for (const payload of payloads) {
      client.publish(topic, payload, { qos, retain }, (error) => {
        if (!error) say({ acknowledged: payload })
      })
    }
  },
  disconnect: () => client.end(false, {}, () => {
    say({ disconnected: true })
    process.exit(0)
  })
}

readline.createInterface({ input: process.stdin }).on('line', (line) => {
  const command = JSON.parse(line)
  commands[command.do](command)
})

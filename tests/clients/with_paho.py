"""paho-mqtt, driven line by line: a command as JSON on standard input, answers and messages as JSON on standard output.

Knows both lines of paho (1.6 of Debian and 2.x of PyPI). It reconnects and sends again by itself, as paho does.
"""

import json
import sys
import threading

import paho.mqtt.client as mqtt
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

lock = threading.Lock()
client = None
acks = {}
early = set()


def say(**what):
    with lock:
        print(json.dumps(what), flush=True)


def properties(kind, **values):
    found = Properties(kind)
    for name, value in values.items():
        setattr(found, name, value)
    return found


def make(version, client_id, clean):
    protocol = mqtt.MQTTv5 if version == 5 else mqtt.MQTTv311
    arguments = {"client_id": client_id, "protocol": protocol}
    if version != 5:
        arguments["clean_session"] = clean
    if hasattr(mqtt, "CallbackAPIVersion"):
        return mqtt.Client(mqtt.CallbackAPIVersion.VERSION1, **arguments)
    return mqtt.Client(**arguments)


def connect(host, port, version, id, clean, will=None):
    global client
    client = make(version, id, clean)
    if will:
        client.will_set(will["topic"], will["payload"], qos=1)
    client.max_inflight_messages_set(10)
    client.max_queued_messages_set(0)
    client.reconnect_delay_set(1, 1)
    client.on_connect = lambda c, u, flags, code, p=None: say(
        connected=bool(flags["session present"]), code=int(getattr(code, "value", code))
    )
    client.on_message = lambda c, u, m: say(
        topic=m.topic, payload=m.payload.decode(), qos=m.qos, retain=bool(m.retain)
    )
    client.on_subscribe = lambda c, u, id, codes, p=None: say(
        subscribed=[int(getattr(code, "value", code)) for code in codes]
    )
    client.on_publish = published
    if version == 5:
        expiry = properties(PacketTypes.CONNECT, SessionExpiryInterval=0 if clean else 3600)
        client.connect(host, port, keepalive=30, clean_start=clean, properties=expiry)
    else:
        client.connect(host, port, keepalive=30)
    client.loop_start()


def published(c, u, id, *rest):
    with lock:
        payload = acks.pop(id, None)
        if payload is None:
            early.add(id)
            return
    say(acknowledged=payload)


def publish(topic, payloads, qos, retain):
    for payload in payloads:
        id = client.publish(topic, payload.encode(), qos=qos, retain=retain).mid
        with lock:
            known = id in early
            early.discard(id)
            if not known:
                acks[id] = payload
        if known:
            say(acknowledged=payload)


for line in sys.stdin:
    command = json.loads(line)
    do = command.pop("do")
    if do == "connect":
        connect(**command)
    elif do == "subscribe":
        client.subscribe(command["filter"], command["qos"])
    elif do == "publish":
        publish(**command)
    elif do == "disconnect":
        client.disconnect()
        client.loop_stop()
        say(disconnected=True)
        break

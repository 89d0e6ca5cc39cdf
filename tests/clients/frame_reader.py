"""Reads frames as docs/frame-format.md describes them: a receiver in another language.

Frames on standard input, each behind its length (4 bytes, big-endian); or one frame as it is, with --one. On standard output one
line of JSON a reading, and after each frame an empty line; for a frame that is refused {"refused": why}.
Needs `zstandard` (Debian: python3-zstandard).
"""

import hashlib
import json
import pathlib
import re
import struct
import sys
import zlib

import zstandard

READINGS_MAX = 65_536
SEQUENCE_MAX = 2**63 - 2
UNPACKED_MAX = 256 << 20
DICTIONARY = pathlib.Path(__file__).parents[2] / "hub-bridge/src/wire/frame/dictionary-1.txt"
DICTIONARY_SHA256 = "45730615010eb4aab6a9ac9f36c309ff0f9ea5a164653c52b23eb0e2cff3055a"


class Refused(Exception):
    pass


def need(holds, why):
    if not holds:
        raise Refused(why)


class Reader:
    """Takes bytes off the front."""

    def __init__(self, data):
        self.data, self.at = data, 0

    def take(self, count):
        need(count <= len(self.data) - self.at, "ends too early")
        self.at += count
        return self.data[self.at - count : self.at]

    def u8(self):
        return self.take(1)[0]

    def varint(self):
        value = 0
        for place in range(10):
            byte = self.u8()
            need(place < 9 or byte <= 1, "a number of more than 64 bits")
            value |= (byte & 0x7F) << (7 * place)
            if byte < 0x80:
                return value
        raise Refused("a number of more than 64 bits")

    def size(self, most):
        value = self.varint()
        need(value <= most, "more than a frame can hold")
        return value

    def bytes(self):
        return self.take(self.varint())

    def text(self):
        try:
            return self.bytes().decode("utf-8")
        except UnicodeDecodeError as error:
            raise Refused("not UTF-8") from error

    def done(self):
        return self.at == len(self.data)


def unzstd(packed, length, dictionary=None):
    try:
        # Else the library takes as much memory as the header claims.
        need(zstandard.frame_content_size(packed) in (-1, length), "another length than it says")
        unpacked = zstandard.ZstdDecompressor(dict_data=dictionary).decompress(packed, max_output_size=length)
    except zstandard.ZstdError as error:
        raise Refused(f"zstd: {error}") from error
    need(len(unpacked) == length, "another length than it says")
    return unpacked


def dictionary(number):
    if number == 0:
        return None
    need(number == 1, "an unknown dictionary")
    data = DICTIONARY.read_bytes()
    assert hashlib.sha256(data).hexdigest() == DICTIONARY_SHA256
    return zstandard.ZstdCompressionDict(data, dict_type=zstandard.DICT_TYPE_RAWCONTENT)


def signed(value):
    """The lowest 64 bits, as a signed number."""
    value &= 2**64 - 1
    return value - 2**64 if value >= 2**63 else value


def unzigzag(coded):
    return (coded >> 1) ^ -(coded & 1)


class Columns:
    def __init__(self, plan, body, left):
        self.plan, self.body, self.left = plan, body, left

    def allow(self, count):
        self.left -= count
        need(self.left >= 0, "more than a frame can hold")

    def place(self, length):
        self.allow(length)
        where = self.plan.varint()
        if where == 0:
            return self.plan.take(length)
        stored = self.body.take(where >> 1)
        if where & 1:
            return unzstd(stored, length)
        need(len(stored) == length, "another length than it says")
        return stored

    def bytes(self):
        return self.place(self.plan.size(self.left))

    def numbers(self, count, begins=lambda n: n == 0):
        head = self.plan.u8()
        kind, planes = head >> 4, head & 0x0F
        need(kind <= 2 and planes <= 8, "an unknown kind of column")
        self.allow(8 * count)
        planes = [self.place(count) for _ in range(planes)]
        values = []
        began = before = step = 0
        for n in range(count):
            coded = sum(plane[n] << (8 * k) for k, plane in enumerate(planes))
            first = begins(n)
            if kind == 0:
                expected = 0
            elif first:
                expected = began
            else:
                expected = before if kind == 1 else before + step
            value = signed(unzigzag(coded) + expected)
            if first:
                began, step = value, 0
            else:
                step = value - before
            before = value
            values.append(value)
        return values


def property_set(data, columns):
    of = Reader(data)
    there = of.u8()
    need(there < 16, "an unknown property")
    found = {}
    if there & 1:
        found["payload_format_indicator"] = of.u8()
    if there & 2:
        found["content_type"] = of.text()
    if there & 4:
        found["response_topic"] = of.text()
    if there & 8:
        found["correlation_data"] = of.bytes().hex()
    count = of.varint()
    columns.allow(len(data) + 48 * count)
    found["user_properties"] = [[of.text(), of.text()] for _ in range(count)]
    need(of.done(), "more properties than it says")
    return found, len(data) + 48 * count


class Shape:
    def __init__(self, columns):
        plan = columns.plan
        places = plan.size(256)
        columns.allow(20 * (places + 1))
        self.texts = [plan.bytes() for _ in range(places + 1)]
        self.styles = []
        for _ in range(places):
            width, scale = plan.u8(), plan.u8()
            kind, scale_max = scale >> 4, scale & 0x0F
            need(width <= 18 and kind <= 3 and scale_max <= 9, "an unknown style")
            self.styles.append((width, kind, scale_max))

    def payloads(self, members, series, columns):
        def begins(n):
            return n == 0 or series[members[n]] != series[members[n - 1]]

        count = len(members)
        places = []
        for width, kind, scale_max in self.styles:
            values = columns.numbers(count, begins)
            widths = [width] * count if width else columns.numbers(count, begins)
            scales = columns.numbers(count, begins) if kind == 3 else [scale_max] * count
            places.append((kind, scale_max, values, widths, scales))
        columns.allow(count * sum(map(len, self.texts)))
        for n in range(count):
            payload = [self.texts[0]]
            for (kind, scale_max, values, widths, scales), text in zip(places, self.texts[1:]):
                number = render(values[n], widths[n], kind, scale_max, scales[n])
                columns.allow(len(number))
                payload += [number, text]
            yield b"".join(payload)


def render(value, width, kind, scale_max, scale):
    need(0 <= width <= 18 and 0 <= scale <= scale_max, "too many digits")
    if kind in (1, 2):
        least = 1 if kind == 2 else 0
        while scale > least and value % 10 ** (scale_max - scale + 1) == 0:
            scale -= 1
    digits = abs(value) // 10 ** (scale_max - scale)
    whole, part = divmod(digits, 10**scale)
    sign = "-" if value < 0 else ""
    behind = f".{part:0{scale}}" if scale else ""
    return f"{sign}{str(whole).zfill(width)}{behind}".encode()


def series_of(codes, count):
    followers, last, seen, found = {}, None, 0, []
    for code in codes:
        series = code - 1 if code else followers.get(last, seen)
        need(0 <= series < count, "a series that is not in the table")
        followers[last] = last = series
        seen = max(seen, series + 1)
        found.append(series)
    return found


def shapes_of(codes, series, count):
    """0 for none, else the index and one."""
    last, found = {}, []
    for code, of in zip(codes, series):
        need(0 <= code <= count + 1, "a shape that is not in the table")
        last[of] = code - 1 if code else last.get(of, 0)
        found.append(last[of])
    return found


def tables(count, columns):
    plan = columns.plan
    clients = [plan.text() for _ in range(plan.size(count))]
    topics = [plan.text() for _ in range(plan.size(count))]
    need(not any("\0" in name for name in clients + topics), "a name with U+0000 in it")
    series = []
    for _ in range(plan.size(count)):
        client, topic = plan.varint(), plan.varint()
        need(client < len(clients) and topic < len(topics), "a name that is not in the table")
        series.append((clients[client], topics[topic]))
    sets = [property_set(plan.bytes(), columns) for _ in range(plan.size(count))]
    return series, sets, [Shape(columns) for _ in range(plan.size(count))]


def payloads(shapes, shape_of, series, columns):
    found = [None] * len(shape_of)
    members = [[] for _ in range(len(shapes) + 1)]
    for n, shape in enumerate(shape_of):
        members[shape].append(n)
    for shape, of in zip(shapes, members[1:]):
        of.sort(key=lambda n: series[n])
        for n, payload in zip(of, shape.payloads(of, series, columns)):
            found[n] = payload
    lengths = columns.numbers(len(members[0]))
    whole = Reader(columns.bytes())
    for n, length in zip(members[0], lengths):
        need(length >= 0, "a negative length")
        found[n] = whole.take(length)
    need(whole.done(), "more whole payloads than it says")
    return found


def readings(first, count, columns):
    all_series, sets, shapes = tables(count, columns)
    gaps = columns.numbers(count - 1)
    series = series_of(columns.numbers(count), len(all_series))
    shape_of = shapes_of(columns.numbers(count), series, len(shapes))
    flags = columns.numbers(count)
    need(all(0 <= f < 64 and f & 3 != 3 for f in flags), "unknown flags")
    at = columns.numbers(count)
    sets_used = iter(columns.numbers(sum(f >> 4 & 1 for f in flags)))
    repeats = iter(columns.numbers(sum(f >> 5 & 1 for f in flags)))
    all_payloads = payloads(shapes, shape_of, series, columns)
    sequence = first
    for n in range(count):
        if n:
            need(gaps[n - 1] >= 0, "sequences out of order")
            sequence += gaps[n - 1] + 1
        need(1 <= sequence <= SEQUENCE_MAX, "sequences that no relay gives")
        reading = {
            "sequence": sequence,
            "client_id": all_series[series[n]][0],
            "topic": all_series[series[n]][1],
            "payload": all_payloads[n].hex(),
            "qos": flags[n] & 3,
            "retain": bool(flags[n] & 4),
            "at": at[n],
            "clock": "unsynchronised" if flags[n] & 8 else "synchronised",
        }
        if flags[n] & 16:
            used = next(sets_used)
            need(0 <= used < len(sets), "a set that is not in the table")
            reading["properties"] = sets[used][0]
            columns.allow(sets[used][1])
        if flags[n] & 32:
            reading["repeat_of"] = (sequence - next(repeats)) % 2**64
            need(1 <= reading["repeat_of"] <= SEQUENCE_MAX, "sequences that no relay gives")
        yield reading


def read_frame(frame):
    need(frame[:3] == b"ERF", "not a frame")
    need(len(frame) > 3 and frame[3] == 1, "another version")
    need(len(frame) >= 8 and struct.pack("<I", zlib.crc32(frame[:-4])) == frame[-4:], "the checksum does not fit")
    of = Reader(frame[4:-4])
    used_dictionary = of.u8()
    village = of.text()
    need(re.fullmatch(r"[A-Za-z0-9_.-]{1,64}", village), "a village id that none can have")
    epoch = of.take(4).hex()
    first, count = of.varint(), of.size(READINGS_MAX)
    need(count > 0, "no readings")
    plan_length = of.size(UNPACKED_MAX)
    plan = Reader(unzstd(of.bytes(), plan_length, dictionary(used_dictionary)))
    columns = Columns(plan, of, UNPACKED_MAX - plan_length)
    found = [{"village": village, "epoch": epoch, **reading} for reading in readings(first, count, columns)]
    need(plan.done() and of.done(), "more than it says")
    return found


def frames(stream):
    while head := stream.read(4):
        yield stream.read(struct.unpack(">I", head)[0])


def main():
    stream = sys.stdin.buffer
    for frame in [stream.read()] if "--one" in sys.argv else frames(stream):
        try:
            lines = read_frame(frame)
        except Refused as why:
            lines = [{"refused": str(why)}]
        print("\n".join(json.dumps(line) for line in lines), end="\n\n", flush=True)


if __name__ == "__main__":
    main()

#!/usr/bin/env python3
"""Phones at a parade: each looks for somebody, publishes frames at its node, and looks next where it is told to.

    examples/parade/cameras.py http://127.0.0.1:8081 http://127.0.0.1:8082

gives the address of each phone's node, in the order of data/scene.json. The scene is drawn here; what becomes of the frames is the
fabric's affair. Says for each phone how many frames showed whom it looks for, and how long guidance took.
"""

import argparse
import json
import pathlib
import sys
import threading
import time
import urllib.error
import urllib.request
from datetime import datetime, timedelta

# A wish lasts six seconds of the parade; it is made anew after so many frames.
WISH_FRAMES = 50
# Where nothing is known of whom it looks for, a camera looks around, zone by zone.
SCAN = [(x, y) for y in (0, 20, 40) for x in (0, 32, 64)]
NOISE_MAX = 24


def noise(frame: int, x: int, y: int) -> int:
    """Looks random and is the same each time."""
    mixed = (frame * 73856093 ^ x * 19349663 ^ y * 83492791) & 0xFFFFFFFF
    return (mixed >> 13) % NOISE_MAX


def position(person: dict, frame: int) -> tuple[int, int]:
    """Where somebody is: on straight ways between the points of the path."""
    path = person["path"]
    for (begin, *start), (end, *stop) in zip(path, path[1:]):
        if frame <= end:
            x, y = (a + (b - a) * (frame - begin) // (end - begin) for a, b in zip(start, stop))
            return x, y
    return path[-1][1], path[-1][2]


def picture(scene: dict, frame: int, left: int, top: int) -> str:
    """The zone of the scene as two hexadecimal digits a pixel."""
    (width, height), (wide, tall) = scene["zone"], scene["person"]
    pixels = [[16 + noise(frame, left + x, top + y) for x in range(width)] for y in range(height)]
    light = 80 + noise(frame, 0, 0) * 20 // NOISE_MAX
    for person in scene["people"]:
        at_x, at_y = position(person, frame)
        for y in range(max(top, at_y), min(top + height, at_y + tall)):
            for x in range(max(left, at_x), min(left + width, at_x + wide)):
                part = person["signature"][(y - at_y) * 3 // tall * 3 + (x - at_x) * 3 // wide]
                pixels[y - top][x - left] = part * light // 100 + noise(frame, x, y) % 6
    return "".join(f"{pixel:02x}" for row in pixels for pixel in row)


class Camera:
    """One phone: its node, whom it looks for, and where."""

    def __init__(self, scene: dict, camera: dict, address: str, arguments: argparse.Namespace) -> None:
        self.scene, self.name, self.seeks, self.address, self.arguments = scene, camera["name"], camera["seeks"], address, arguments
        self.begun = datetime.fromisoformat(scene["begun"])
        self.scanned = 0
        self.guided: list[float] = []
        self.last: dict | None = None

    def moment(self, frame: int) -> str:
        moment = self.begun + timedelta(milliseconds=frame * self.scene["frame_ms"])
        return moment.isoformat(timespec="milliseconds")

    def publish(self, stream: str, value: dict) -> None:
        body = json.dumps({"key": self.name, "value": json.dumps(value)}).encode()
        request = urllib.request.Request(f"{self.address}/parade/{stream}", body, {"content-type": "application/x-ndjson"})
        with urllib.request.urlopen(request, timeout=30) as answer:
            answer.read()

    def guidance(self, frame: int, person: str) -> dict | None:
        """What the fabric says of somebody on a frame, if it does in time."""
        deadline = time.monotonic() + self.arguments.wait
        while time.monotonic() < deadline:
            with urllib.request.urlopen(f"{self.address}/parade/guidance?last=20", timeout=30) as answer:
                rows = [record.get("row", record) for record in json.load(answer)]
            for row in rows:
                if (row["camera"], row["frame"], row["person"]) == (self.name, frame, person):
                    return row
            time.sleep(0.005)
        return None

    def run(self) -> None:
        zone = SCAN[0]
        for frame in range(self.arguments.frames):
            person = [person for since, person in self.seeks if since <= frame][-1]
            if frame % WISH_FRAMES == 0 or any(since == frame for since, _ in self.seeks):
                self.publish("wishes", {"camera": self.name, "person": person, "since": self.moment(frame)})
            shown = {"frame": frame, "taken": self.moment(frame), "zone_x": zone[0], "zone_y": zone[1]}
            begun = time.monotonic()
            self.publish("frames", shown | {"pixels": picture(self.scene, frame, *zone)})
            row = self.guidance(frame, person)
            if row is None:
                self.scanned += 1
                zone = SCAN[self.scanned % len(SCAN)]
                continue
            if self.last is None or self.last["person"] != row["person"]:
                print(f"{self.name}: frame {frame} shows {row['person']} on {row['ride']}. {row['about']}", flush=True)
            self.last = row
            self.guided.append(time.monotonic() - begun)
            zone = (row["zone_x"], row["zone_y"])

    def told(self) -> str:
        times = sorted(self.guided)
        if not times:
            return f"{self.name}: found nobody in {self.arguments.frames} frames"
        p50, p95 = (times[min(len(times) - 1, int(len(times) * share))] * 1000 for share in (0.5, 0.95))
        return f"{self.name}: {len(times)} of {self.arguments.frames} frames showed whom it looks for; guidance took {p50:.0f} ms, p95 {p95:.0f} ms"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("nodes", nargs="+", help="the address of each phone's node, http://HOST:PORT")
    parser.add_argument("--frames", type=int, default=150, help="how many frames each takes")
    parser.add_argument("--wait", type=float, default=1.0, help="how many seconds a phone waits for guidance before it looks elsewhere")
    arguments = parser.parse_args()
    scene = json.loads((pathlib.Path(__file__).parent / "data/scene.json").read_text())
    if len(arguments.nodes) > len(scene["cameras"]):
        parser.error(f"the scene has {len(scene['cameras'])} phones")
    cameras = [Camera(scene, camera, node.rstrip("/"), arguments) for camera, node in zip(scene["cameras"], arguments.nodes)]
    threads = [threading.Thread(target=camera.run, daemon=True) for camera in cameras]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for camera in cameras:
        print(camera.told())
    return 0 if all(camera.guided for camera in cameras) else 1


if __name__ == "__main__":
    try:
        sys.exit(main())
    except urllib.error.URLError as error:
        sys.exit(f"a phone's node does not answer: {error}; is `littoral dev examples/parade` running?")

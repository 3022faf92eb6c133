"""The records of live key frames to an MQTT broker; needs the extra `mqtt`."""

import json
import threading
from collections.abc import Callable
from typing import Any
from urllib.parse import unquote, urlsplit

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion

from cli.workflow.streaming.outputs import MAX_QUEUED, Record
from stal_data.errors import InputError

_PORTS = {"mqtt": 1883, "mqtts": 8883}
_PARTING_S = 5.0


class Mqtt:
    """Publishes each record with QoS 1; paho-mqtt sends in a thread of its own, and connects again."""

    pictures = False

    def __init__(self, url: str, note: Callable[[str], None]) -> None:
        """url: mqtt or mqtts://[USER:PASSWORD@]HOST[:PORT]/TOPIC. note: told of lost and refused connections."""
        parts = urlsplit(url)
        self._topic = unquote(parts.path.lstrip("/"))
        if parts.scheme not in _PORTS or not parts.hostname or not self._topic or {"#", "+"} & set(self._topic):
            place = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
            raise InputError(
                f"The broker is '{place}', but must be mqtt://HOST:PORT/TOPIC or mqtts://, without # and +."
            )
        self._queued = self._sent = self._refused = 0
        self._changed = threading.Condition()
        self._client = client = paho.Client(CallbackAPIVersion.VERSION2)
        client.max_queued_messages_set(MAX_QUEUED)

        def published(*_: Any) -> None:
            with self._changed:
                self._sent += 1
                self._changed.notify_all()

        def connected(_client: Any, _data: Any, _flags: Any, reason: Any, _properties: Any) -> None:
            if reason.is_failure:
                note(f"the MQTT broker at {parts.hostname} refuses this client: {reason}")

        def lost(_client: Any, _data: Any, _flags: Any, reason: Any, _properties: Any) -> None:
            if reason.is_failure:
                note(f"the connection to the MQTT broker at {parts.hostname} is lost: {reason}; connecting again")

        client.on_publish, client.on_connect, client.on_disconnect = published, connected, lost
        client.on_connect_fail = lambda *_: note(f"the MQTT broker at {parts.hostname} does not answer; trying again")
        if parts.username is not None:
            client.username_pw_set(unquote(parts.username), None if parts.password is None else unquote(parts.password))
        if parts.scheme == "mqtts":
            client.tls_set()
        client.connect_async(parts.hostname, parts.port or _PORTS[parts.scheme])
        client.loop_start()

    def send(self, record: Record, picture: bytes | None) -> None:  # noqa: ARG002
        # Without a connection it is queued.
        if self._client.publish(self._topic, json.dumps(record), qos=1).rc == paho.MQTT_ERR_QUEUE_SIZE:
            self._refused += 1
        else:
            self._queued += 1

    def close(self) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._sent == self._queued, _PARTING_S)
        self._client.disconnect()
        self._client.loop_stop()

    def summary(self) -> str:
        return f"MQTT: {self._sent} sent, {self._queued - self._sent + self._refused} failed"

"""python3 rtsp_server.py PORT WIDTH HEIGHT: a moving ball at rtsp://127.0.0.1:PORT/live.

For the system's Python, with Debian's gir1.2-gst-rtsp-server-1.0, python3-gi and GStreamer's plugins (good, bad, ugly).
"""

import sys

import gi

gi.require_version("Gst", "1.0")
gi.require_version("GstRtspServer", "1.0")
from gi.repository import GLib, Gst, GstRtspServer  # noqa: E402 - the versions are chosen first

port, width, height = sys.argv[1:]
Gst.init(None)
server, factory = GstRtspServer.RTSPServer.new(), GstRtspServer.RTSPMediaFactory.new()
server.set_address("127.0.0.1")
server.set_service(port)
factory.set_launch(
    f"( videotestsrc is-live=true pattern=ball ! video/x-raw,width={width},height={height},framerate=25/1 ! "
    "x264enc tune=zerolatency speed-preset=ultrafast key-int-max=25 ! rtph264pay name=pay0 )"
)
factory.set_shared(True)
server.get_mount_points().add_factory("/live", factory)
server.attach(None)
print("ready", flush=True)
GLib.MainLoop().run()

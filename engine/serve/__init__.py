"""Models answer over HTTP: a run's folder, or an exported file, as a server with a page for people.

Handed a model that answers photos and some limits; hands on an application for any ASGI server, and runs it in one. A
request's photos are read within limits, looked at, and wait a few milliseconds for others to be answered with; what is
wrong with a photo is said of that photo, and its neighbours are answered.

It stands after predict and export, whose answers it passes on to the last bit, and after report, which makes pages of
what is finished. Nothing of what it knows of HTTP is needed to train or to answer.
"""

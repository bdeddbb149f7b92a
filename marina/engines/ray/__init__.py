"""Ray Serve as an engine: the same archives and paths, on one machine or on many.

routes          the names and paths of Serve's applications, which say what is registered
front           what HAProxy does with a request: straight to a replica of the version that it asks for
haproxy         the program that Serve starts in HAProxy's place: adds the front, and runs HAProxy
replica         a version: handler, batches and the gateway in one process
catalog         what concerns no single version: health, lists, unknown models, gRPC
cluster         Serve's applications: deployed, routed, removed
fleet           the management API's calls
ray_process     Ray on this machine
controller      the process that `marina serve` keeps alive
"""

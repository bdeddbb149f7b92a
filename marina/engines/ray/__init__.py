"""Ray Serve as an engine: the same archives and paths, on one machine or on many.

routes          the names and paths of Serve's applications, which say what is registered
front           what HAProxy does with a request: straight to a replica of the version that it asks for
haproxy         the program that Serve starts in HAProxy's place: adds the front, and runs HAProxy
replica         a version: handler, batches and the gateway in one process
catalog         what concerns no single version: health, lists, unknown models
archives        how a node comes by an archive
scale           how many replicas a version has, and how many of them on a node
cluster         Serve's applications: deployed, routed, removed
fleet           the management API's calls
ray_process     a Ray of one node, which ends with the controller
joined          the cluster that is joined instead; joined_ray: the connection to it
ledger          what is registered, in a cluster's own store, for the next controller
local_cluster   nodes on this machine for trying; node_command, loopback_node: how one is started
environment     what the processes of a node find in their environment
controller      the process that `marina serve` keeps alive: management, metrics, gRPC
"""

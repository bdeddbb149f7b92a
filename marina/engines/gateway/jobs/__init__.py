"""Jobs: requests that are answered later, at a URL of their own, in the time that callers leave.

limits     how many, how large and how old they may be
store      what is known of them, on disk, shared by the processes of a server
service    what callers ask for: submit, look, fetch, delete
runner     computes them in the background, and again after a crash
callbacks  tells the hosts that the configuration allows that a job has ended
"""

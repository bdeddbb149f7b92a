"""Which runtime computes a model fastest and still answers as it was trained to: measured at export, never
believed.

    candidates.py          what candidates are built from, and a row of their table
    openvino_form.py       the files of one runtime each: `build` writes them and returns their entry
    onnx_form.py
    aotinductor_form.py
    agreement.py           whether reduced precision still gives the same answers
    trial_process.py       the process that they are built, run and timed in: a crash costs one candidate
    trial_server.py        what that process does
    choosing.py            builds, checks and times them all, and keeps what serves

A new runtime is one file and a line in `choosing.BUILDERS`, and a class in `handlers/runtime/runtimes.py`.
"""

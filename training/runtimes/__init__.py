"""Which runtime computes a model fastest and still answers as it was trained to: measured at export, never believed.

    candidates.py          what candidates are built from, and a row of their table
    openvino_form.py       the files of one runtime each: `build` writes them and returns their entry of runtime.json
    onnx_form.py
    aotinductor_form.py
    agreement.py           whether reduced precision still gives the same answers
    choosing.py            builds, checks and times them all, and keeps what serves

A new runtime is one file and a line in `choosing.BUILDERS`, and a class in `handlers/bundle_runtimes.py`.
"""

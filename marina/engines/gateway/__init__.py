"""The ASGI app of the engines without TorchServe: models that answer in this process, and their APIs.

    served_model    an archive that is loaded here and gathers its own batches
    models          the versions that this process serves, and which is a model's default
    bodies          a request's body and headers -> the row that TorchServe hands to a predictor
    answer_streams  requests whose answers leave one after another
    app             the inference API: TorchServe's paths, KServe v1, Open Inference Protocol v2
    failures, tokens, metrics

What starts processes and what speaks the management API is the engine's.
"""

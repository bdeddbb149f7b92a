"""A recipe: logistic regression by scikit-learn, exported as one linear layer."""

import torch
from pydantic import Field
from sklearn.linear_model import LogisticRegression

from handlers.inputs.images import ImageInput
from marina.core.spec import Section
from training import data
from training.export.trained import Sample, Trained
from training.runs.run import Run
from training.vision.classification.inputs import pixels


class Settings(Section):
    regularization: float = Field(default=10, gt=0, description="weight of the squared weights in the loss")


class Regression(torch.nn.Linear):
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return super().forward(images.flatten(1) / 255)  # uint8 [B, 1, 16, 16] -> logits [B, 10]


def train(settings: Settings, run: Run) -> Trained:
    digits, inputs = data.load_images("digits", run.seed), ImageInput(16, 16, mode="L", fit="ink")
    (images, labels), (test, truth) = (pixels(part, inputs).tensors for part in (digits.train, digits.test))
    regression = LogisticRegression(C=1 / settings.regularization, max_iter=500)
    fitted = regression.fit(images.flatten(1) / 255, labels)
    model = Regression(256, 10).eval().requires_grad_(False)
    model.weight[:], model.bias[:] = torch.tensor(fitted.coef_), torch.tensor(fitted.intercept_)
    right = model(test).argmax(1) == truth
    samples = []
    for row in right.nonzero()[:10, 0].tolist():
        expect = {"class": digits.classes[truth[row]]}
        samples.append(Sample(f"digit-{row}", *digits.test[row].encoded(), expect))
    metrics, labels = {"accuracy": right.float().mean().item()}, list(digits.classes)
    serving = inputs.as_config(), {"type": "classification", "top_k": 3}
    return Trained("classifier", model, (test[:4],), metrics, *serving, samples, digits.about(), labels)

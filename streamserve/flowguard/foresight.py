"""PredictedLatency: the pair on which this request alone is predicted to end first."""

from streamserve.flowguard.caches import Outlook
from streamserve.flowguard.pairs import Block, Pairs
from streamserve.flowguard.predict import Predictor
from streamserve.signals import Signals
from streamserve.types import Decision, Request, Result


class PredictedLatency:
    """The least predicted end-to-end time of this request, whatever it costs the others."""

    name = "predicted_latency"

    def __init__(self, pairs: Pairs) -> None:
        self._outlook = Outlook(pairs)
        self._predictor = Predictor()

    def route(self, request: Request, signals: Signals) -> Decision:
        """Raises `NoLane`."""
        seen = self._outlook.look(request, signals)
        field, lanes, cached = seen
        block = Block.all(len(lanes.lanes))
        forecast = self._predictor.forecast(request, lanes, cached.tokens, signals.at_s, block)
        prefill, decode = self._outlook.topology.least(field.roomy, forecast.e2e_s)
        self._predictor.chosen(request, lanes, forecast, block, (prefill, decode), signals.at_s)
        self._outlook.sent(seen, prefill, decode)
        prediction = self._predictor.prediction(forecast, (prefill, decode), request)
        scores = {"e2e_s": prediction.e2e_s}
        return field.decision((prefill, decode), self.name, "least predicted latency", signals.at_s, scores, prediction)

    def learn(self, result: Result) -> None:
        """Correct the predictions by how a request turned out."""
        self._predictor.learn(result)

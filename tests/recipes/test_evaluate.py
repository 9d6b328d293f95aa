from tests.recipes.conftest import CPU, OPTIONS
from vitprune.circuit import Ablation, Circuit, Graph
from vitprune.evaluation.models import CIRCUIT, MODELS
from vitprune.evaluation.table import model_table
from vitprune.recipes.evaluate import evaluate


def test_every_model_is_scored_and_timed_and_the_table_can_be_made_of_it(packed, baseline):
    graph = Graph.of(baseline.model)
    circuit = Circuit(
        graph=graph, keep_mask=graph.all_edges, ablation=Ablation.zero(baseline.model), kl=0.0, method="all"
    )
    models = {model.name: baseline for model in MODELS}
    sizes = {name: 1000 * number for number, name in enumerate(models, 1)}
    done = evaluate(packed, models, sizes, circuit, baseline, OPTIONS.evaluate, OPTIONS.compute, CPU)
    assert {done.scores[name]["accuracy"] for name in models} == {done.scores[CIRCUIT]["accuracy"]}
    assert [done.scores[name]["bytes"] for name in models] == list(sizes.values())
    assert done.scores[CIRCUIT]["edges_kept"] == len(graph.edges)
    assert done.logits.shape == (16, 4)
    assert set(done.times[MODELS[0].name]) == {"batch_1", "batch_2"}
    table = model_table(done.scores | {"dataset": "made up"}, done.times)
    assert next(row[0] for row in table.rows) == MODELS[0].label

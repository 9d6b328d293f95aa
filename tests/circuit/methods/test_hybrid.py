from tests.circuit.oracle import random_images, random_model
from vitprune.circuit import discover


def test_a_hybrid_that_settles_nothing_is_acdc_and_closed():
    model = random_model(6)
    images = random_images(model)
    exact = discover(model, images, "acdc", tau=0.01)
    tested = discover(model, images, "hybrid", tau=0.01, low=0.0, high=1e9)
    assert set(tested.kept) == set(exact.closed().kept)


def test_the_hybrid_tests_only_what_attribution_leaves_unsettled():
    model = random_model(7, num_layers=3)
    circuit = discover(model, random_images(model), "hybrid", tau=0.003)
    actions = {action: sum(d.action == action for d in circuit.trace) for action in {d.action for d in circuit.trace}}
    assert sum(actions.values()) == len(circuit.graph.edges)
    assert actions["removed-untested"] > 0
    for decision in circuit.trace:
        if decision.action == "removed-untested":
            assert abs(decision.change) < 0.0003
            assert (decision.sender, decision.receiver) not in circuit.kept

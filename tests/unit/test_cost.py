"""What passes cost, as a run takes them: one after the other."""

from diffuspec.models import cost


def test_a_size_costs_what_it_takes_in_a_row_and_more_rows_never_cost_less(monkeypatch):
    """A processor whose first wide pass after another size is quick, and which is interrupted now and then."""
    clock, ran = [0.0], []

    def run(size: int) -> None:
        took = 2.0 if len(ran) % 7 == 3 else 0.004 if size > 4 and ran[-1:] == [size] else 0.003
        ran.append(size)
        clock[0] += took if size != 4 else 0.001

    monkeypatch.setattr(cost.time, "perf_counter", lambda: clock[0])
    curve = dict(cost._curve(run, (1, 4, 8)))
    assert abs(curve[8] - 4.0) < 1e-6 and abs(curve[1] - 3.0) < 1e-6
    assert curve[4] == curve[1], "what seems cheaper than fewer rows is noise"

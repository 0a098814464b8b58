from pyro_infomax.oracles import CorrelatedStudent, TransformedProblem, information_problems


def test_each_call_gives_the_same_problems() -> None:
    first, again = information_problems(), information_problems()
    assert list(first) == list(again)
    assert len(first) >= 10
    for name, problem in first.items():
        assert problem.mutual_information == again[name].mutual_information
        assert 0.1 < problem.mutual_information < 3


def test_transforms_keep_the_information_of_their_problem() -> None:
    problems = information_problems()
    bent = {name: problem for name, problem in problems.items() if isinstance(problem, TransformedProblem)}
    assert len(bent) >= 4
    for name, problem in bent.items():
        plain = name.rpartition(",")[0]
        assert problem.mutual_information == problems[plain].mutual_information


def test_set_has_heavy_tails() -> None:
    assert any(isinstance(problem, CorrelatedStudent) for problem in information_problems().values())

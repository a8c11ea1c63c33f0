"""What the controller's linter says, as findings."""

from __future__ import annotations

import pytest

from pybuild.jenkins.lint import Finding, findings

TWO = """Errors encountered validating Jenkinsfile:
WorkflowScript: 4: Unknown stage section "step". Starting with version 0.5 @ line 4, column 9.
           stage('a') {
           ^

WorkflowScript: 1: Missing required section "agent" @ line 1, column 1.
   pipeline {
   ^

"""


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        pytest.param("Jenkinsfile successfully validated.\n", (), id="fine"),
        pytest.param(
            TWO,
            (
                Finding(4, 9, 'Unknown stage section "step". Starting with version 0.5'),
                Finding(1, 1, 'Missing required section "agent"'),
            ),
            id="two",
        ),
        pytest.param(
            "Errors encountered validating Jenkinsfile:\n"
            "Jenkinsfile content 'node { }' did not contain the 'pipeline' step\n",
            (Finding(0, 0, "Jenkinsfile content 'node { }' did not contain the 'pipeline' step"),),
            id="scripted",
        ),
        pytest.param("", (Finding(0, 0, "the linter said nothing"),), id="nothing"),
    ],
)
def test_findings(answer: str, expected: tuple[Finding, ...]) -> None:
    assert findings(answer) == expected

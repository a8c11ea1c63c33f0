package pybuild

import com.cloudbees.groovy.cps.Outcome

/** One of the branches that a pipeline runs at once; the first is the pipeline itself. */
class Strand {
    final Strand parent
    final String branch
    final List<StepCall> open
    /** What its program is continued with; null while it waits for its own branches. */
    Outcome next = new Outcome(null, null)
    boolean ended = false
    final Map<String, Outcome> results = [:]
    int waitsFor = 0
    boolean failFast = false
    Throwable firstFailure = null

    Strand(Strand parent, String branch) {
        this.parent = parent
        this.branch = branch
        this.open = parent ? new ArrayList<StepCall>(parent.open) : []
    }

    boolean isBelow(Strand other) { parent != null && (parent.is(other) || parent.isBelow(other)) }
}

import groovy.transform.Field
import kaniko.Arguments
import kaniko.Pod

@Field final List TEMPLATE = [
    'cloud', 'namespace', 'inheritFrom', 'idleMinutes', 'slaveConnectTimeout', 'showRawYaml', 'workspaceVolume',
]
@Field final List OWN = ['retries', 'podRetention']
@Field final List RETENTIONS = ['never', 'onFailure', 'always']

/** Runs `body` on a node of its own, a Pod with the builder in it; returns the body's value. */
Object call(Map args = [:], Closure body) {
    String problem = Arguments.problem(args, Pod.KNOWN + TEMPLATE + OWN)
    if (args.podRetention && !RETENTIONS.contains(args.podRetention.toString())) {
        problem = "'podRetention' has to be one of ${RETENTIONS.join(', ')}"
    }
    if (problem) {
        error("kanikoPodTemplate: ${problem}")
    }
    Map template = [yaml: kanikoPodYaml(Arguments.only(args, Pod.KNOWN)), showRawYaml: false] +
        Arguments.only(args, TEMPLATE - ['workspaceVolume'])
    if (args.workspaceVolume) {
        template.workspaceVolume = args.workspaceVolume
    }
    if (args.podRetention) {
        template.podRetention = retention(args.podRetention.toString())
    }
    int attempts = args.retries == null ? 2 : args.retries
    Object value = null
    podTemplate(template) {
        if (attempts > 1) {
            // A lost Pod is no failure of the build; one that was killed for its memory is.
            retry(count: attempts, conditions: [kubernetesAgent(), nonresumable()]) {
                node(POD_LABEL) { value = body.call() }
            }
        } else {
            node(POD_LABEL) { value = body.call() }
        }
    }
    return value
}

private Object retention(String name) {
    if (name == 'onFailure') {
        return onFailure()
    }
    return name == 'always' ? always() : never()
}

import pybuild.Sections

// A Declarative pipeline, as far as the examples use it. A controller reads the sections from the
// source; here they are run, each with what may stand in it.

Object call(Closure body) {
    Map all = sections(body, ['agent', 'stages', 'post', 'options', 'environment'])
    Map options = all.options ? sections(all.options[0][0], OPTIONS()) : [:]
    onAgent(all.agent[0][0], options) {
        withOptions(options) {
            withValues(all.environment) {
                concluding(all.post) { stages(all.stages[0][0]) }
            }
        }
    }
}

private List OPTIONS() {
    return ['timeout', 'buildDiscarder', 'logRotator', 'skipDefaultCheckout', 'disableConcurrentBuilds', 'timestamps']
}

private Map sections(Closure body, List known) {
    Sections sections = new Sections(known)
    body.delegate = sections
    body.resolveStrategy = Closure.DELEGATE_FIRST
    body()
    return sections.found
}

private void onAgent(Object agent, Map options, Closure body) {
    if (agent == 'none') {
        body()
        return
    }
    if (agent == 'any') {
        node('any') { body() }
        return
    }
    Map kinds = sections((Closure) agent, ['kubernetes'])
    Map pod = sections((Closure) kinds.kubernetes[0][0],
        ['yaml', 'yamlFile', 'defaultContainer', 'retries', 'cloud', 'namespace', 'showRawYaml'])
    String text = pod.yaml ? pod.yaml[0][0] : readTrusted(pod.yamlFile[0][0])
    int attempts = pod.retries ? pod.retries[0][0] : 1
    podTemplate(yaml: text, showRawYaml: pod.showRawYaml ? pod.showRawYaml[0][0] : true) {
        retry(count: attempts, conditions: [kubernetesAgent(), nonresumable()]) {
            node(POD_LABEL) {
                if (!options.skipDefaultCheckout) {
                    checkout(scm)
                }
                if (pod.defaultContainer) {
                    container(pod.defaultContainer[0][0]) { body() }
                } else {
                    body()
                }
            }
        }
    }
}

private void withOptions(Map options, Closure body) {
    if (options.timeout) {
        timeout(options.timeout[0][0]) { body() }
    } else {
        body()
    }
}

private void withValues(Object environment, Closure body) {
    if (!environment) {
        body()
        return
    }
    Closure assignments = (Closure) environment[0][0]
    Sections sections = new Sections([])
    assignments.delegate = sections
    assignments.resolveStrategy = Closure.DELEGATE_FIRST
    assignments()
    List lines = []
    for (entry in sections.values.entrySet()) {
        lines.add("${entry.key}=${entry.value}".toString())
    }
    withEnv(lines) { body() }
}

private void concluding(Object post, Closure body) {
    Map conditions = post ? sections((Closure) post[0][0],
        ['always', 'success', 'failure', 'unsuccessful', 'cleanup']) : [:]
    Exception failure = null
    try {
        body()
    } catch (Exception thrown) {
        failure = thrown
    }
    List wanted = failure == null ? ['always', 'success', 'cleanup'] : ['always', 'failure', 'unsuccessful', 'cleanup']
    for (name in wanted) {
        if (conditions[name]) {
            ((Closure) conditions[name][0][0])()
        }
    }
    if (failure != null) {
        throw failure
    }
}

private void stages(Closure body) {
    Map all = sections(body, ['stage'])
    for (one in all.stage) {
        oneStage(one[0], (Closure) one[1])
    }
}

private void oneStage(String name, Closure body) {
    Map all = sections(body, ['agent', 'when', 'environment', 'steps', 'post', 'parallel', 'stages', 'options'])
    stage(name) {
        if (all.when && !holds((Closure) all.when[0][0])) {
            echo("Stage \"${name}\" skipped due to when conditional".toString())
        } else {
            onAgent(all.agent ? all.agent[0][0] : 'none', [:]) {
                withValues(all.environment) {
                    concluding(all.post) { inStage(all) }
                }
            }
        }
    }
}

private void inStage(Map all) {
    if (all.steps) {
        ((Closure) all.steps[0][0])()
    } else if (all.stages) {
        stages((Closure) all.stages[0][0])
    } else {
        Map branches = [:]
        for (one in sections((Closure) all.parallel[0][0], ['stage']).stage) {
            String name = one[0]
            Closure body = (Closure) one[1]
            branches[name] = { oneStage(name, body) }
        }
        parallel(branches)
    }
}

private boolean holds(Closure body) {
    Map all = sections(body, ['branch', 'changeRequest', 'buildingTag', 'expression', 'not', 'anyOf', 'allOf'])
    for (entry in all.entrySet()) {
        for (given in entry.value) {
            if (!condition(entry.key, given)) {
                return false
            }
        }
    }
    return true
}

private boolean condition(String name, List given) {
    switch (name) {
        case 'branch': return env.BRANCH_NAME == given[0]
        case 'changeRequest': return env.CHANGE_ID != null
        case 'buildingTag': return env.TAG_NAME != null
        case 'expression': return ((Closure) given[0])()
        case 'not': return !holds((Closure) given[0])
        case 'allOf': return holds((Closure) given[0])
        default: throw new IllegalArgumentException(name)
    }
}

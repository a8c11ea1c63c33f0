import groovy.transform.Field
import kaniko.Arguments
import kaniko.Builder
import kaniko.Credentials

@Field final List KNOWN = ['registries', 'dockerConfigCredentialsId', 'url', 'credentialsId', 'container', 'shell', 'builder']

/**
 * Runs `body` with DOCKER_CONFIG, a folder whose config.json knows the credentials, and removes it. They are one
 * map, a list of maps, or the id of a secret file that is a config.json.
 */
Object call(Object credentials, Closure body) {
    Map args = argumentsOf(credentials)
    String problem = Arguments.problem(args, KNOWN) ?: Credentials.problem(args)
    if (!problem && !args.registries && !args.dockerConfigCredentialsId) {
        problem = "there are no credentials: [url: 'registry.example.com', credentialsId: 'id']"
    }
    if (problem) {
        error("kanikoCredentials: ${problem}")
    }
    Builder builder = new Builder(this, 'kanikoCredentials', args)
    String folder = builder.newFolder()
    Object value = null
    try {
        String config = "${folder}/docker".toString()
        builder.run("${folder}/login".toString(), 'Write the credentials', [command: 'login', configFolder: config])
        withEnv(["DOCKER_CONFIG=${config}".toString()]) {
            value = body.call()
        }
    } finally {
        dir(folder) { deleteDir() }
    }
    return value
}

private Map argumentsOf(Object credentials) {
    if (credentials instanceof CharSequence) {
        return [dockerConfigCredentialsId: credentials.toString()]
    }
    if (credentials instanceof Collection) {
        return [registries: credentials]
    }
    Map args = [:] + (Map) credentials
    if (args.url) {
        args.registries = (args.registries ?: []) + [[url: args.url, credentialsId: args.credentialsId]]
        args.remove('url')
        args.remove('credentialsId')
    }
    return args
}

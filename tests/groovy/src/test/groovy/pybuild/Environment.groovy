package pybuild

/** `env` and `currentBuild`: names for what the controller knows, no values of the program. */
class Environment implements Serializable {
    /** What the library reads and sets of it, as a sandbox sees it. */
    static final Set<String> NAMES = [
        'BRANCH_IS_PRIMARY', 'BRANCH_NAME', 'BUILD_NUMBER', 'BUILD_URL', 'CHANGE_ID', 'GIT_COMMIT', 'GIT_URL',
        'KANIKO_BUILDER_IMAGE', 'TAG_NAME',
    ].collectMany { ['get' + it, it] } + ['KANIKO_IMAGE_REF', 'KANIKO_IMAGE_DIGEST'] as Set<String>

    @Override
    Object getProperty(String name) { CpsHarness.running().environment()[name] }

    @Override
    void setProperty(String name, Object value) {
        CpsHarness.running().buildEnvironment[name] = value == null ? null : value.toString()
    }
}

class CurrentBuild implements Serializable {
    String getDescription() { CpsHarness.running().description }

    void setDescription(String text) { CpsHarness.running().description = text }

    String getCurrentResult() { CpsHarness.running().result }
}

/** Stands for the annotation of Jenkins' library plugin; the harness loads the vars itself. */
@interface Library {
    String[] value()
}

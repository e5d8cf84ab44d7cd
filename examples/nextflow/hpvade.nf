// Composition of bulk samples, with intervals, verdict and a page to send.
// `model` is a folder of `hpvade train`, or 'blood', which the package brings.
process HPVADE {
    label 'process_low'

    input:
    path bulk
    val model

    output:
    path 'proportions.csv', emit: proportions
    path 'proportions.intervals.csv', emit: intervals
    path 'report.html', emit: report
    path 'summary.json', emit: summary
    path '*.provenance.json', emit: provenance

    script:
    def args = task.ext.args ?: '--map-genes'
    """
    hpvade deconvolve ${bulk} --model ${model} ${args} --intervals \\
        --report report.html -o proportions.csv --json > summary.json
    """
}

workflow {
    HPVADE(Channel.fromPath(params.bulk), params.model ?: 'blood')
}

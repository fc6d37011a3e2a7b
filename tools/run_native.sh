#!/bin/sh
# Runs the native test programs given as arguments. Exit status 0 is a pass, 77 a skip (its last line says
# why), anything else, or two minutes without an end, a failure. Prints what a program said when it failed.
set -u
[ $# -gt 0 ] || { echo "error: there is no native test"; exit 1; }

# ThreadSanitizer of gcc before 14 gives up where the kernel randomises more address bits than it knows of;
# containers may forbid to switch that off, and then it has to run as it is.
steady="setarch -R"
$steady true 2> /dev/null || steady=

export TSAN_OPTIONS="halt_on_error=1 ${TSAN_OPTIONS:-}"
export UBSAN_OPTIONS="print_stacktrace=1 ${UBSAN_OPTIONS:-}"

passed=0 failed=0 skipped=0
for program; do
    output=$(timeout 120 $steady ${RUNNER:-} "$program" 2>&1)
    status=$?
    case $status in
    0)
        passed=$((passed + 1))
        echo "pass  $program"
        ;;
    77)
        skipped=$((skipped + 1))
        echo "skip  $program: $(echo "$output" | tail -n 1)"
        ;;
    *)
        failed=$((failed + 1))
        echo "FAIL  $program (exit status $status)"
        echo "$output"
        ;;
    esac
done
echo "native tests: $passed passed, $failed failed, $skipped skipped"
[ $failed -eq 0 ]

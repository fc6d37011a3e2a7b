/* test_fuzz_corpus.c - the inputs that `make fuzz` has kept, without a fuzzer: each reaches code that the others do
 * not, or broke something once. */
#include "../fuzz/fuzz_ring.c"

#include <dirent.h>

#define CORPUS "tests/fuzz/corpus/ring"
#define LONGEST 65536u /* bytes; libFuzzer makes none longer than 4096 by itself */
#define SKIPPED 77

int main(void) {
    DIR *folder = opendir(CORPUS);
    if (!folder) {
        printf("skipped: there is no %s here\n", CORPUS);
        return SKIPPED;
    }
    static uint8_t data[LONGEST];
    unsigned inputs = 0;
    for (struct dirent *entry; (entry = readdir(folder));) {
        char path[sizeof CORPUS + 1 + sizeof entry->d_name];
        snprintf(path, sizeof path, "%s/%s", CORPUS, entry->d_name);
        FILE *file = entry->d_name[0] == '.' ? NULL : fopen(path, "rb");
        if (!file) continue;
        const size_t size = fread(data, 1, sizeof data, file);
        fclose(file);
        LLVMFuzzerTestOneInput(data, size);
        inputs++;
    }
    closedir(folder);
    HOLDS(inputs > 0);
    printf("%u inputs\n", inputs);
    return 0;
}

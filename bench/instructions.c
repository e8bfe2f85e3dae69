/* A plugin for QEMU that counts emulated instructions and a program's system calls: numbers that do not depend on the
 * host's load.
 *
 *   -plugin instructions.so,out=FILE      when QEMU ends, write both numbers to FILE as decimal text
 *
 * System calls are counted where QEMU emulates a single program. In a whole machine the guest's kernel handles them,
 * and QEMU does not see them.
 *
 * The plugin interface is described in QEMU's docs/devel/tcg-plugins.rst and include/qemu/qemu-plugin.h. Debian does
 * not package the header, so the functions used are declared here. VERSION is the version of the interface: 1 before
 * QEMU 9.0, 2 since then.
 */
#include <inttypes.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

typedef uint64_t qemu_plugin_id_t;
struct qemu_info;
struct qemu_plugin_tb; /* a translation block: instructions without a branch in between */

void qemu_plugin_register_vcpu_tb_trans_cb(qemu_plugin_id_t, void (*)(qemu_plugin_id_t, struct qemu_plugin_tb *));
void qemu_plugin_register_vcpu_tb_exec_cb(struct qemu_plugin_tb *, void (*)(unsigned, void *), int flags, void *);
void qemu_plugin_register_vcpu_syscall_cb(qemu_plugin_id_t,
    void (*)(qemu_plugin_id_t, unsigned processor, int64_t number, uint64_t, uint64_t, uint64_t, uint64_t, uint64_t,
             uint64_t, uint64_t, uint64_t));
void qemu_plugin_register_atexit_cb(qemu_plugin_id_t, void (*)(qemu_plugin_id_t, void *), void *);
size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb *);

int qemu_plugin_version = VERSION;

static uint64_t count, calls;
static char *out;

static void run(unsigned processor, void *instructions) {
    (void) processor;
    __atomic_fetch_add(&count, (uintptr_t) instructions, __ATOMIC_RELAXED);
}

static void translated(qemu_plugin_id_t id, struct qemu_plugin_tb *block) {
    (void) id;
    qemu_plugin_register_vcpu_tb_exec_cb(block, run, 0, (void *) (uintptr_t) qemu_plugin_tb_n_insns(block));
}

static void called(qemu_plugin_id_t id, unsigned processor, int64_t number, uint64_t a, uint64_t b, uint64_t c, uint64_t d,
                   uint64_t e, uint64_t f, uint64_t g, uint64_t h) {
    (void) id, (void) processor, (void) number;
    (void) a, (void) b, (void) c, (void) d, (void) e, (void) f, (void) g, (void) h;
    __atomic_fetch_add(&calls, 1, __ATOMIC_RELAXED);
}

static void end(qemu_plugin_id_t id, void *data) {
    (void) id;
    (void) data;
    FILE *file = fopen(out, "w");
    if (file != NULL) {
        fprintf(file, "%" PRIu64 " %" PRIu64 "\n", count, calls);
        fclose(file);
    }
}

int qemu_plugin_install(qemu_plugin_id_t id, const struct qemu_info *info, int argc, char **argv) {
    (void) info;
    if (argc != 1 || strncmp(argv[0], "out=", 4) != 0) {
        fprintf(stderr, "instructions.so: the argument out=FILE is required\n");
        return 1;
    }
    out = strdup(argv[0] + 4);
    qemu_plugin_register_vcpu_tb_trans_cb(id, translated);
    qemu_plugin_register_vcpu_syscall_cb(id, called);
    qemu_plugin_register_atexit_cb(id, end, NULL);
    return 0;
}

/* Counts the instructions that QEMU emulates, and a program's system calls: numbers that do not depend on what else the
 * host does.
 *
 *   -plugin instructions.so,out=FILE      both, in digits, are in FILE when QEMU has ended
 *
 * System calls are seen where QEMU emulates a program alone; in a whole machine they are the guest kernel's, and none are
 * counted.
 *
 * QEMU's plugin interface is docs/devel/tcg-plugins.rst and include/qemu/qemu-plugin.h there. Debian packages no header,
 * so what is used is declared here; VERSION is the interface's: 1 before QEMU 9.0, 2 from then on.
 */
#include <inttypes.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

typedef uint64_t qemu_plugin_id_t;
struct qemu_info;
struct qemu_plugin_tb; /* a translation block: instructions that run one after the other */

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
        fprintf(stderr, "instructions.so: what is wanted is out=FILE\n");
        return 1;
    }
    out = strdup(argv[0] + 4);
    qemu_plugin_register_vcpu_tb_trans_cb(id, translated);
    qemu_plugin_register_vcpu_syscall_cb(id, called);
    qemu_plugin_register_atexit_cb(id, end, NULL);
    return 0;
}

/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * A TCG plugin that counts guest instructions into a shared file, so that a program outside can
 * read them while the guest runs. Idle (halted) time does not count. Plugin API 1; the prototypes
 * are written here from its documentation, so that no QEMU header is needed.
 *
 *     -plugin build/bench/icount.so,out=FILE[,low=HEX,high=HEX][,hot=on]
 *
 * FILE, u64: [0] all instructions, [1] those of blocks in [low, high) or in the upper half, [2]
 * blocks, [3] number of slots; from byte 64: slots {address, instructions, executions}, one per
 * translated block, only with hot=on.
 */
#include <fcntl.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

typedef uint64_t qemu_plugin_id_t;
struct qemu_plugin_tb;
struct qemu_info;
enum qemu_plugin_op { QEMU_PLUGIN_INLINE_ADD_U64 };
typedef void tb_trans(qemu_plugin_id_t, struct qemu_plugin_tb *);
extern void qemu_plugin_register_vcpu_tb_trans_cb(qemu_plugin_id_t, tb_trans *);
extern size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb *);
extern uint64_t qemu_plugin_tb_vaddr(const struct qemu_plugin_tb *);
extern void qemu_plugin_register_vcpu_tb_exec_inline(struct qemu_plugin_tb *, enum qemu_plugin_op,
                                                     void *, uint64_t);
__attribute__((visibility("default"))) int qemu_plugin_version = 1;

#define SLOTS (1u << 20)
struct slot {
    uint64_t address, insns, runs;
};
static uint64_t *head;
static struct slot *slots;
static uint32_t table[2 * SLOTS]; /* open addressing: slot number + 1 */
static uint64_t low, high;
static int hot;

static struct slot *slot_of(uint64_t address, uint64_t insns)
{
    uint32_t k = (uint32_t)((address * 0x9E3779B97F4A7C15ull + insns) >> 43);
    for (;; k = (k + 1) % (2 * SLOTS)) {
        if (!table[k]) {
            if (head[3] + 1 >= SLOTS)
                return NULL;
            slots[head[3]] = (struct slot){.address = address, .insns = insns};
            table[k] = (uint32_t)++head[3];
        }
        struct slot *s = &slots[table[k] - 1];
        if (s->address == address && s->insns == insns)
            return s;
    }
}

static void translated(qemu_plugin_id_t id, struct qemu_plugin_tb *tb)
{
    uint64_t address = qemu_plugin_tb_vaddr(tb), n = qemu_plugin_tb_n_insns(tb);
    (void)id;
    qemu_plugin_register_vcpu_tb_exec_inline(tb, QEMU_PLUGIN_INLINE_ADD_U64, &head[0], n);
    qemu_plugin_register_vcpu_tb_exec_inline(tb, QEMU_PLUGIN_INLINE_ADD_U64, &head[2], 1);
    if ((address >= low && address < high) || address >> 63)
        qemu_plugin_register_vcpu_tb_exec_inline(tb, QEMU_PLUGIN_INLINE_ADD_U64, &head[1], n);
    struct slot *s = hot ? slot_of(address, n) : NULL;
    if (s)
        qemu_plugin_register_vcpu_tb_exec_inline(tb, QEMU_PLUGIN_INLINE_ADD_U64, &s->runs, 1);
}

__attribute__((visibility("default"))) int qemu_plugin_install(qemu_plugin_id_t id,
                                                               const struct qemu_info *info,
                                                               int argc, char **argv)
{
    const char *out = NULL;
    size_t len = 64 + (size_t)SLOTS * sizeof(struct slot);
    (void)info;
    for (int i = 0; i < argc; i++) {
        if (!strncmp(argv[i], "out=", 4))
            out = argv[i] + 4;
        else if (!strncmp(argv[i], "low=", 4))
            low = strtoull(argv[i] + 4, NULL, 16);
        else if (!strncmp(argv[i], "high=", 5))
            high = strtoull(argv[i] + 5, NULL, 16);
        else if (!strcmp(argv[i], "hot=on"))
            hot = 1;
    }
    int fd = out ? open(out, O_RDWR | O_CREAT | O_TRUNC, 0600) : -1;
    if (fd < 0 || ftruncate(fd, (off_t)len))
        return -1;
    head = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (head == MAP_FAILED)
        return -1;
    slots = (struct slot *)(void *)((char *)head + 64);
    qemu_plugin_register_vcpu_tb_trans_cb(id, translated);
    return 0;
}

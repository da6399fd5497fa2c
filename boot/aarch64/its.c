/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * GICv3's interrupt translation service: a write of an event number by a device becomes an LPI.
 *
 *     device id --device table--> a table of the device: event --> LPI, collection
 *     collection --collection table--> our redistributor
 *     LPI --configuration table, pending table (of the redistributor)--> interrupt
 *
 * All of these are memory that we give and never look at again. Events are numbered over all
 * devices: event n of any device is LPI n, so each device's table has room for LPI_COUNT of them.
 * Commands go through a ring; each is waited for, they are few and happen at start.
 *
 * Missing on purpose: device tables of two levels. Requesters above bus 31 get no messages.
 *
 * Source: Arm IHI 0069, chapters 5 and 6.
 */
#include "boot/aarch64/cpu.h"
#include "boot/aarch64/gic_hw.h"
#include "boot/arch.h"
#include "boot/boot.h"
#include "kernel/board.h"
#include "kernel/dma.h"
#include "kernel/error.h"
#include "kernel/log.h"
#include "kernel/page.h"
#include "kernel/pci.h"

#include <string.h>

#define LPI_ID_BITS   14u   /* 8,192 LPIs: the fewest there can be */
#define LPI_CONFIG    0xa3u /* priority 0xa0, bit 1 reads as one, enabled */
#define CONFIG_BYTES  8192u
#define PENDING_BYTES 2048u /* at a multiple of 64 KiB */
#define TABLE_BYTES   65536u
#define MAX_DEVICES   64u
#define EVENT_BITS    6u
#define COLLECTION    0u
#define WAIT_NS       100000000ull

static_assert(LPI_COUNT == 1u << EVENT_BITS, "");

static volatile uint8_t *its;
static uint64_t its_phys, redistributor_target;
static struct its_command_entry *queue; /* one page */
static unsigned queue_next, entry_bytes, devices_max;
static bool flush; /* the tables are not read through the caches */
static uint32_t devices[MAX_DEVICES];
static unsigned device_count;

static uint64_t read64(const volatile uint8_t *base, unsigned off)
{
    return *(const volatile uint64_t *)(const volatile void *)(base + off);
}

static void write64(volatile uint8_t *base, unsigned off, uint64_t v)
{
    *(volatile uint64_t *)(volatile void *)(base + off) = v;
}

static void clean(const void *p, size_t len)
{
    for (uintptr_t a = (uintptr_t)p; flush && a < (uintptr_t)p + len; a += 16)
        __asm__ volatile("dc civac, %0" : : "r"(a) : "memory");
    dsb();
}

/* A base register; what it makes of our wish for coherence is what `flush` is about. */
static uint64_t set_base(volatile uint8_t *regs, unsigned reg, uint64_t v)
{
    write64(regs, reg, v | BASER_INNER_SHARE);
    uint64_t got = read64(regs, reg);
    if (!(got & BASER_SHARE))
        flush = true;
    return got;
}

static bool command(uint64_t w0, uint64_t w1, uint64_t w2)
{
    struct its_command_entry *c = &queue[queue_next];
    *c = (struct its_command_entry){{w0, w1, w2, 0}};
    clean(c, sizeof(*c));
    queue_next = (queue_next + 1) % (PAGE_SIZE / sizeof(*c));
    uint64_t end = queue_next * sizeof(*c), give_up = board_clock_ns() + WAIT_NS;
    write64(its, GITS_CWRITER, end);
    while (read64(its, GITS_CREADR) != end)
        if (board_clock_ns() > give_up)
            return false;
    return true;
}

/* From here on the redistributor knows of LPIs; this cannot be taken back. */
static bool enable_lpis(volatile uint8_t *redistributor, uint64_t config, uint64_t pending)
{
    if (!(read64(redistributor, GICR_TYPER) & GICR_TYPER_LPIS))
        return false;
    volatile uint32_t *control = (volatile uint32_t *)(volatile void *)redistributor;
    if (*control & GICR_CTLR_ENABLE_LPIS)
        return false; /* somebody's tables are in use */
    set_base(redistributor, GICR_PROPBASER, config | BASER_WRITE_BACK_7 | (LPI_ID_BITS - 1));
    set_base(redistributor, GICR_PENDBASER, pending | BASER_WRITE_BACK_7 | BASER_PTZ);
    clean(phys_to_linear(config), CONFIG_BYTES);
    clean(phys_to_linear(pending), PENDING_BYTES);
    *control |= GICR_CTLR_ENABLE_LPIS;
    dsb();
    return true;
}

static void set_table(unsigned reg, uint64_t memory, uint64_t bytes)
{
    uint64_t old = read64(its, reg), pages = bytes / PAGE_SIZE;
    uint64_t got = set_base(
        its, reg, BASER_VALID | BASER_WRITE_BACK_59 | (old & 7ull << 56) | memory | (pages - 1));
    uint64_t page = got >> 8 & 3; /* 4 KiB, or all that it can: 16 or 64 */
    if (page)
        set_base(its, reg,
                 BASER_VALID | BASER_WRITE_BACK_59 | (old & 7ull << 56) | page << 8 | memory |
                     (MAX(bytes >> (10 + 2 * (page + 1)), 1ull) - 1));
    clean(phys_to_linear(memory), bytes);
}

/* Each table has 64 KiB: whatever the page size, it fits. */
static void set_tables(uint64_t device_table, uint64_t collection_table)
{
    for (unsigned i = 0; i < 8; i++) {
        unsigned reg = GITS_BASER + 8 * i;
        uint64_t v = read64(its, reg), type = v >> 56 & 7;
        if (type == GITS_BASER_DEVICES) {
            set_table(reg, device_table, TABLE_BYTES);
            devices_max = TABLE_BYTES / (unsigned)((v >> 48 & 31) + 1);
        } else if (type == GITS_BASER_COLLECTIONS) {
            set_table(reg, collection_table, TABLE_BYTES);
        }
    }
}

static bool start(uint64_t redistributor_phys, uint64_t redistributor_type)
{
    uint64_t type = read64(its, GITS_TYPER);
    entry_bytes = (unsigned)(type >> 4 & 15) + 1;
    redistributor_target = type & GITS_TYPER_PTA ? redistributor_phys & ~0xffffull
                                                 : (redistributor_type >> 8 & 0xffff) << 16;
    set_base(its, GITS_CBASER, BASER_VALID | BASER_WRITE_BACK_59 | dma_map(queue, PAGE_SIZE));
    write64(its, GITS_CWRITER, 0);
    *(volatile uint32_t *)(volatile void *)its = GITS_CTLR_ENABLE;
    return devices_max && command(ITS_MAPC, 0, BASER_VALID | redistributor_target | COLLECTION) &&
           command(ITS_SYNC, 0, redistributor_target);
}

bool its_init(uint64_t phys, volatile uint8_t *redistributor, uint64_t redistributor_phys)
{
    its = mmio_map(phys, GITS_LENGTH);
    its_phys = phys;
    /* What the alignment costs, then 64 KiB each: pending, commands, configuration; devices;
     * collections. */
    unsigned pages = 4 * (TABLE_BYTES / PAGE_SIZE) - 1;
    uint64_t memory = align_up(memory_early_pages(pages), TABLE_BYTES);
    uint64_t config = memory + 2 * PAGE_SIZE;
    memset(phys_to_linear(memory), 0, 3 * TABLE_BYTES);
    memset(phys_to_linear(config), LPI_CONFIG, CONFIG_BYTES);
    queue = phys_to_linear(memory + PAGE_SIZE);
    if (its && enable_lpis(redistributor, config, memory)) {
        *(volatile uint32_t *)(volatile void *)its = 0;
        set_tables(memory + TABLE_BYTES, memory + 2 * TABLE_BYTES);
        if (start(redistributor_phys, read64(redistributor, GICR_TYPER)))
            return true;
    }
    log_line("irq", "no use of the ITS at 0x%llx: devices have no messages",
             (unsigned long long)phys);
    return false;
}

/* Gives a device its table, once. */
static int know_device(uint32_t device)
{
    for (unsigned i = 0; i < device_count; i++)
        if (devices[i] == device)
            return 0;
    if (device >= devices_max || device_count == MAX_DEVICES)
        return SR_ENOSPC;
    size_t bytes = (size_t)entry_bytes << EVENT_BITS; /* at most a page */
    void *table = page_alloc_zeroed(PAGE_SIZE);
    if (!table)
        return SR_ENOMEM;
    clean(table, bytes);
    if (!command(ITS_MAPD | (uint64_t)device << 32, EVENT_BITS - 1,
                 BASER_VALID | dma_map(table, bytes)))
        return SR_EIO;
    devices[device_count++] = device;
    return 0;
}

int its_message(uint32_t device, unsigned event, uint64_t *addr, uint32_t *data)
{
    int r = know_device(device);
    if (r)
        return r;
    if (!command(ITS_MAPTI | (uint64_t)device << 32, event | (uint64_t)(INTID_LPI + event) << 32,
                 COLLECTION) ||
        !command(ITS_INV | (uint64_t)device << 32, event, 0) ||
        !command(ITS_SYNC, 0, redistributor_target))
        return SR_EIO;
    *addr = its_phys + GITS_TRANSLATER;
    *data = event;
    return 0;
}

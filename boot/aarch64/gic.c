/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Interrupts: the Generic Interrupt Controller, versions 2 and 3, and irq.h on top of it.
 *
 * No handler does anything, interrupts only end a sleep (clock.c), so who raised one is not looked
 * at: messages get numbers of their own for the sake of readable registers, and when these run out
 * the last one is shared. Everything goes to the boot core, the only one that runs a loop today.
 *
 *     version 2   registers of distributor and processor interface; messages by GICv2m, which turns
 *                 a write into an SPI of its range
 *     version 3   distributor, the boot core's redistributor, system registers; messages by the ITS
 *                 (its.c), or by a GICv2m frame where a machine has one
 *
 * Either version is used with one security state: what is written means the same in the only state
 * of a machine without security, and in the non-secure view of one with it.
 */
#include "boot/aarch64/gic.h"
#include "boot/aarch64/cpu.h"
#include "boot/aarch64/gic_hw.h"
#include "boot/arch.h"
#include "kernel/board.h"
#include "kernel/error.h"
#include "kernel/irq.h"
#include "kernel/log.h"
#include "kernel/pci.h"

#define PRIORITY       0xa0u
#define PRIORITY_MIN   0xf0u /* everything more urgent than this is heard */
#define SGI_WAKE       0u
#define TRIES          1000000u
#define ACKNOWLEDGE    8u /* a line that stays up must not hold us */

#define ICC_SRE        "s3_0_c12_c12_5"
#define ICC_PMR        "s3_0_c4_c6_0"
#define ICC_CTLR       "s3_0_c12_c12_4"
#define ICC_IGRPEN1    "s3_0_c12_c12_7"
#define ICC_IAR1       "s3_0_c12_c12_0"
#define ICC_EOIR1      "s3_0_c12_c12_1"
#define ICC_SGI1R      "s3_0_c12_c11_5"
#define MPIDR_AFFINITY 0xff00ffffffull

static unsigned version; /* 0: there is none */
static volatile uint8_t *dist, *cpu, *redist;
static uint64_t redist_phys;
static unsigned intid_end; /* of the distributor */
static uint8_t cpu_mask;   /* version 2: the boot core as a target */
static uint64_t v2m_phys;
static unsigned v2m_base, v2m_count;
static bool has_its;
static unsigned next_vector;

static uint32_t read32(const volatile uint8_t *base, unsigned off)
{
    return *(const volatile uint32_t *)(const volatile void *)(base + off);
}

static void write32(volatile uint8_t *base, unsigned off, uint32_t v)
{
    *(volatile uint32_t *)(volatile void *)(base + off) = v;
}

static uint64_t read64(const volatile uint8_t *base, unsigned off)
{
    return *(const volatile uint64_t *)(const volatile void *)(base + off);
}

bool gic_present(void)
{
    return version;
}

static void wait_distributor(void)
{
    for (unsigned i = 0; i < TRIES && read32(dist, GICD_CTLR) & GICD_CTLR_PENDING; i++)
        ;
}

/* Where the registers of this interrupt are: PPIs and SGIs of version 3 have a place of their own. */
static volatile uint8_t *bank(unsigned intid)
{
    return version == 3 && intid < INTID_SPI ? redist + GICR_SGI : dist;
}

void gic_enable(unsigned intid, bool level)
{
    if (!version || intid >= intid_end)
        return;
    volatile uint8_t *b = bank(intid);
    unsigned bit = intid % 32, word = intid / 32 * 4, shift = intid % 16 * 2;
    uint32_t config = read32(b, GICD_ICFGR + intid / 16 * 4) & ~(2u << shift);
    if (intid >= INTID_SPI) /* those of others are what the machine made them */
        write32(b, GICD_ICFGR + intid / 16 * 4, config | (level ? 0 : 2u << shift));
    b[GICD_IPRIORITYR + intid] = PRIORITY;
    if (version == 2 && intid >= INTID_SPI)
        b[GICD_ITARGETSR + intid] = cpu_mask;
    if (version == 3 && intid >= INTID_SPI)
        *(volatile uint64_t *)(volatile void *)(b + GICD_IROUTER + 8 * intid) =
            READ_SYSREG("mpidr_el1") & MPIDR_AFFINITY;
    write32(b, GICD_ISENABLER + word, 1u << bit);
}

/* ---- version 2 ---- */

static bool init_v2(const struct gic_info *info)
{
    dist = mmio_map(info->dist, GICD_LENGTH_V2);
    cpu = mmio_map(info->cpu, GICC_LENGTH);
    if (!dist || !cpu)
        return false;
    write32(dist, GICD_CTLR, 0);
    cpu_mask = dist[GICD_ITARGETSR]; /* those of SGIs read as who asks; 0 on a single core */
    for (unsigned i = INTID_SPI; i < intid_end; i += 32)
        write32(dist, GICD_ICENABLER + i / 8, UINT32_MAX);
    write32(dist, GICD_CTLR, GICD_CTLR_ENABLE);
    write32(cpu, GICC_PMR, PRIORITY_MIN);
    write32(cpu, GICC_CTLR, 1);
    return true;
}

static unsigned acknowledge_v2(void)
{
    uint32_t iar = read32(cpu, GICC_IAR);
    unsigned intid = iar & 0x3ff;
    if (intid < INTID_SPECIAL)
        write32(cpu, GICC_EOIR, iar);
    return intid;
}

/* ---- version 3 ---- */

/* This core's redistributor: the one whose affinity is ours. */
static bool find_redistributor(const struct phys_range *r)
{
    uint64_t mpidr = READ_SYSREG("mpidr_el1"), len = r->end - r->base;
    uint32_t affinity = (uint32_t)(mpidr & 0xffffff) | (uint32_t)(mpidr >> 8 & 0xff000000);
    for (uint64_t at = 0; len - at >= GICR_LENGTH && at < len;) {
        volatile uint8_t *p = mmio_map(r->base + at, GICR_LENGTH);
        uint64_t type = p ? read64(p, GICR_TYPER) : GICR_TYPER_LAST;
        if (p && type >> 32 == affinity) {
            redist = p;
            redist_phys = r->base + at;
            return true;
        }
        if (type & GICR_TYPER_LAST)
            return false;
        at += type & GICR_TYPER_VLPIS ? GICR_LENGTH_V4 : GICR_LENGTH;
    }
    return false;
}

static bool wake_redistributor(void)
{
    write32(redist, GICR_WAKER, read32(redist, GICR_WAKER) & ~(uint32_t)GICR_WAKER_SLEEP);
    for (unsigned i = 0; i < TRIES; i++)
        if (!(read32(redist, GICR_WAKER) & GICR_WAKER_CHILDREN_ASLEEP))
            return true;
    return false;
}

static bool init_v3(const struct gic_info *info)
{
    dist = mmio_map(info->dist, GICD_LENGTH);
    for (unsigned i = 0; i < info->redist_count && !redist; i++)
        find_redistributor(&info->redist[i]);
    if (!dist || !redist || !wake_redistributor())
        return false;
    write32(dist, GICD_CTLR, 0);
    wait_distributor();
    for (unsigned i = INTID_SPI; i < intid_end; i += 32) {
        write32(dist, GICD_ICENABLER + i / 8, UINT32_MAX);
        write32(dist, GICD_IGROUPR + i / 8, UINT32_MAX);
    }
    write32(dist, GICD_CTLR, GICD_CTLR_AFFINITY | GICD_CTLR_ENABLE_GROUP1 | GICD_CTLR_ENABLE);
    wait_distributor();
    write32(redist, GICR_SGI + GICD_IGROUPR, UINT32_MAX);
    WRITE_SYSREG(ICC_SRE, READ_SYSREG(ICC_SRE) | 1);
    isb();
    WRITE_SYSREG(ICC_PMR, PRIORITY_MIN);
    WRITE_SYSREG(ICC_CTLR, 0);
    WRITE_SYSREG(ICC_IGRPEN1, 1);
    isb();
    return true;
}

static unsigned acknowledge_v3(void)
{
    unsigned intid = (unsigned)READ_SYSREG(ICC_IAR1);
    dsb();
    if (intid < INTID_SPECIAL || intid >= INTID_LPI)
        WRITE_SYSREG(ICC_EOIR1, intid);
    isb();
    return intid;
}

/* ---- both ---- */

static void find_v2m(uint64_t phys)
{
    const volatile uint8_t *frame = phys ? mmio_map(phys, V2M_LENGTH) : NULL;
    uint32_t type = frame ? read32(frame, V2M_TYPER) : 0;
    v2m_base = type >> 16 & 0x3ff;
    v2m_count = type & 0x3ff;
    if (v2m_base < INTID_SPI || v2m_base + v2m_count > intid_end)
        v2m_count = 0;
    v2m_phys = phys;
    if (phys && !v2m_count)
        log_line("irq", "the MSI frame at 0x%llx has no interrupts of ours",
                 (unsigned long long)phys);
}

/* The number of interrupts is asked for first: the initialisation goes through all of them. */
static void find_count(uint64_t phys)
{
    const volatile uint8_t *d = mmio_map(phys, GICD_LENGTH_V2);
    uint32_t lines = d ? read32(d, GICD_TYPER) & 31 : 0;
    intid_end = MIN(32 * (lines + 1), (unsigned)INTID_SPI_END);
}

void gic_init(const struct gic_info *info)
{
    find_count(info->dist);
    version = info->version; /* for the functions below */
    bool ok = version == 2 ? init_v2(info) : version == 3 && init_v3(info);
    if (!ok) {
        version = 0;
        log_line("irq", "no interrupt controller that we can use at 0x%llx",
                 (unsigned long long)info->dist);
        return;
    }
    gic_enable(SGI_WAKE, false);
    find_v2m(info->v2m);
    if (version == 3 && info->its && !v2m_count)
        has_its = its_init(info->its, redist, redist_phys);
}

void gic_acknowledge(void)
{
    for (unsigned i = 0; i < ACKNOWLEDGE; i++) {
        unsigned intid = version == 2 ? acknowledge_v2() : acknowledge_v3();
        if (intid >= INTID_SPECIAL && intid < INTID_LPI)
            return;
    }
}

/* One loop: an interrupt to ourselves is pending until the next sleep ends at once. */
void board_wake(unsigned loop)
{
    (void)loop;
    uint64_t m = READ_SYSREG("mpidr_el1");
    if (version == 2)
        write32(dist, GICD_SGIR, GICD_SGIR_SELF | SGI_WAKE);
    else if (version == 3)
        WRITE_SYSREG(ICC_SGI1R, 1ull << (m & 15) | (m >> 8 & 0xff) << 16 | (m >> 16 & 0xff) << 32 |
                                    (m >> 32 & 0xff) << 48 | (m >> 4 & 15) << 44 |
                                    (uint64_t)SGI_WAKE << 24);
}

int irq_alloc(struct irq *irq, unsigned loop)
{
    irq->vector = next_vector;
    irq->loop = loop;
    unsigned last = has_its ? LPI_COUNT - 1 : MAX(v2m_count, 1u) - 1;
    if (next_vector < last)
        next_vector++;
    return 0;
}

int irq_msi_message(const struct irq *irq, uint32_t requester, uint64_t *addr, uint32_t *data)
{
    if (has_its)
        return its_message(requester, irq->vector, addr, data);
    if (!v2m_count)
        return SR_ENOTSUP;
    *addr = v2m_phys + V2M_SETSPI;
    *data = v2m_base + irq->vector;
    gic_enable(*data, false);
    return 0;
}

/* Active low does not exist here: the machine inverts such lines on the way. */
int irq_route_gsi(const struct irq *irq, unsigned gsi, bool level, bool low)
{
    (void)irq, (void)low;
    if (!version || gsi < INTID_SPI || gsi >= intid_end)
        return SR_ENOTSUP;
    gic_enable(gsi, level);
    return 0;
}

/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef AHCI_AHCI_HW_H
#define AHCI_AHCI_HW_H
/*
 * What controller and disk agree on: registers, structures in memory, commands. Sources: Serial ATA
 * AHCI 1.3.1 (chapter 3: registers, chapter 4: memory), Serial ATA 3.x (FISes, NCQ error log), ACS-3
 * (commands, IDENTIFY words), SPC/MMC (packets). Offsets are bytes, memory is little-endian.
 */
#include "kernel/compiler.h"
#include "kernel/endian.h"

/* ---- Registers (3.1 controller, 3.3 port) ---------------------------------------------------- */

enum ahci_reg {
    AHCI_CAP = 0x00,
    AHCI_GHC = 0x04,
    AHCI_IS = 0x08,
    AHCI_PI = 0x0c,
    AHCI_VS = 0x10,
    AHCI_CAP2 = 0x24,
    AHCI_BOHC = 0x28,
    AHCI_PORTS = 0x100,
    AHCI_PORT_SIZE = 0x80,
};
enum ahci_port_reg {
    PX_CLB = 0x00,
    PX_CLBU = 0x04,
    PX_FB = 0x08,
    PX_FBU = 0x0c,
    PX_IS = 0x10,
    PX_IE = 0x14,
    PX_CMD = 0x18,
    PX_TFD = 0x20,
    PX_SIG = 0x24,
    PX_SSTS = 0x28,
    PX_SCTL = 0x2c,
    PX_SERR = 0x30,
    PX_SACT = 0x34,
    PX_CI = 0x38,
};
#define AHCI_MAX_PORTS 32u
#define AHCI_MAX_SLOTS 32u

#define CAP_NP(cap)    (((cap)&0x1f) + 1)
#define CAP_NCS(cap)   (((cap) >> 8 & 0x1f) + 1)
#define CAP_SCLO       (1u << 24)
#define CAP_SSS        (1u << 27)
#define CAP_SNCQ       (1u << 30)
#define CAP_S64A       (1u << 31)
#define CAP2_BOH       1u
#define GHC_HR         1u
#define GHC_IE         2u
#define GHC_AE         (1u << 31)
#define BOHC_BOS       1u
#define BOHC_OOS       2u
#define BOHC_BB        16u

#define CMD_ST         1u
#define CMD_SUD        2u
#define CMD_POD        4u
#define CMD_CLO        8u
#define CMD_FRE        16u
#define CMD_FR         (1u << 14)
#define CMD_CR         (1u << 15)
#define CMD_CPD        (1u << 20)
#define CMD_ATAPI      (1u << 24)
#define CMD_ICC        (15u << 28)
#define CMD_ICC_ACTIVE (1u << 28)

#define PIS_DHRS       1u
#define PIS_PSS        2u
#define PIS_DSS        4u
#define PIS_SDBS       8u
#define PIS_PCS        (1u << 6)  /* a device came (cleared through SERR.DIAG.X) */
#define PIS_PRCS       (1u << 22) /* the link came or went (SERR.DIAG.N) */
#define PIS_OFS        (1u << 24)
#define PIS_IFS        (1u << 27)
#define PIS_HBDS       (1u << 28)
#define PIS_HBFS       (1u << 29)
#define PIS_TFES       (1u << 30)
#define PIS_FATAL      (PIS_IFS | PIS_HBDS | PIS_HBFS | PIS_OFS)
#define PIS_PLUG       (PIS_PCS | PIS_PRCS)
#define PIS_WANTED     (PIS_DHRS | PIS_PSS | PIS_SDBS | PIS_PLUG | PIS_FATAL | PIS_TFES)

#define SSTS_DET(s)    ((s)&15)
#define DET_UP         3u /* device there, link established */
#define DET_NONE       0u
#define SCTL_DET_INIT  1u
#define SERR_ALL       0xffffffffu

#define TFD_ERR        1u
#define TFD_DF         (1u << 5)
#define TFD_DRQ        (1u << 3)
#define TFD_BSY        (1u << 7)
#define TFD_ERROR(t)   ((t) >> 8 & 0xff)

#define SIG_DISK       0x00000101u
#define SIG_ATAPI      0xeb140101u
#define SIG_SEMB       0xc33c0101u
#define SIG_MULTIPLIER 0x96690101u
#define SIG_NONE       0xffffffffu

/* ---- Structures in memory (4.2) -------------------------------------------------------------- */

struct ahci_header { /* of one slot, in the command list */
    le16 flags, prdtl;
    le32 prdbc; /* bytes transferred: not for NCQ (5.4.1) */
    le64 table; /* 128-byte aligned */
    le32 reserved[4];
};
static_assert(sizeof(struct ahci_header) == 32, "4.2.2");
#define HEADER_FIS_WORDS 5u
#define HEADER_ATAPI     (1u << 5)
#define HEADER_WRITE     (1u << 6)

struct ahci_prd {
    le64 base; /* even */
    le32 reserved;
    le32 count; /* bytes - 1, odd; bit 31: interrupt */
};
static_assert(sizeof(struct ahci_prd) == 16, "4.2.3.3");
#define PRD_COUNT(c) (((c)&0x3fffff) + 1)

struct fis_h2d { /* register, host to device */
    uint8_t type, flags, command, feature;
    uint8_t lba0, lba1, lba2, device;
    uint8_t lba3, lba4, lba5, feature_high;
    uint8_t count, count_high, icc, control;
    uint8_t reserved[4];
};
static_assert(sizeof(struct fis_h2d) == 20, "Serial ATA, register FIS");
#define FIS_H2D        0x27u
#define FIS_D2H        0x34u
#define FIS_PIO        0x5fu
#define FIS_SDB        0xa1u
#define FIS_IS_COMMAND 0x80u
#define DEVICE_LBA     0x40u
#define DEVICE_FUA     0x80u /* of an NCQ command */

#define AHCI_PRDS      120u
struct ahci_table {
    struct fis_h2d fis;
    uint8_t fis_rest[44];
    uint8_t packet[16];
    uint8_t reserved[48];
    struct ahci_prd prd[AHCI_PRDS];
};
static_assert(offsetof(struct ahci_table, packet) == 0x40, "4.2.3");
static_assert(offsetof(struct ahci_table, prd) == 0x80, "4.2.3");
static_assert(sizeof(struct ahci_table) == 2048, "so that each is aligned");

#define AHCI_LIST_BYTES 1024u
#define AHCI_FIS_BYTES  256u /* received FISes */
#define RFIS_D2H        0x40u
#define RFIS_SDB        0x58u

/* ---- Commands (ACS-3 chapter 7) -------------------------------------------------------------- */

enum ata_command {
    ATA_DSM = 0x06,
    ATA_READ_DMA_EXT = 0x25,
    ATA_READ_LOG_EXT = 0x2f,
    ATA_WRITE_DMA_EXT = 0x35,
    ATA_WRITE_DMA_FUA_EXT = 0x3d,
    ATA_READ_FPDMA = 0x60,
    ATA_WRITE_FPDMA = 0x61,
    ATA_PACKET = 0xa0,
    ATA_IDENTIFY_PACKET = 0xa1,
    ATA_READ_DMA = 0xc8,
    ATA_WRITE_DMA = 0xca,
    ATA_FLUSH = 0xe7,
    ATA_FLUSH_EXT = 0xea,
    ATA_IDENTIFY = 0xec,
};
#define ATA_ABRT           0x04u
#define ATA_IDNF           0x10u
#define ATA_UNC            0x40u
#define ATA_DSM_TRIM       1u
#define ATA_TRIM_ENTRIES   64u    /* of 8 bytes, per 512-byte block */
#define ATA_TRIM_MAX       65535u /* sectors per entry */
#define ATA_LOG_NCQ        0x10u
#define PACKET_DMA         1u
#define PACKET_DMADIR      4u
#define ATA_IDENTIFY_BYTES 512u

/* NCQ command error log, page 10h (ACS-3 9.14). */
struct ata_ncq_log {
    uint8_t tag; /* 7: the error was not of a queued command */
    uint8_t reserved, status, error;
    uint8_t rest[507], checksum; /* of 512 bytes: sum is 0 */
};
static_assert(sizeof(struct ata_ncq_log) == 512, "one page");
#define NCQ_LOG_NOT_QUEUED 0x80u
#define NCQ_LOG_TAG        0x1fu

/* Words of IDENTIFY DEVICE (ACS-3 7.12.7). */
enum ata_id {
    ID_CONFIG = 0,
    ID_SERIAL = 10,
    ID_FIRMWARE = 23,
    ID_MODEL = 27,
    ID_CAPABILITIES = 49,
    ID_SECTORS28 = 60,
    ID_DMADIR = 62,
    ID_TRIM_KIND = 69,
    ID_QUEUE_DEPTH = 75,
    ID_SATA = 76,
    ID_COMMANDS2 = 83,
    ID_COMMANDS3 = 84,
    ID_ENABLED1 = 85,
    ID_SECTORS48 = 100,
    ID_TRIM_BLOCKS = 105,
    ID_SECTOR_SIZE = 106,
    ID_LOGICAL_WORDS = 117,
    ID_DSM = 169,
    ID_ROTATION = 217,
    ID_INTEGRITY = 255,
    ID_WORDS = 256,
};

/* ---- Packets (SPC-4, MMC-6) ------------------------------------------------------------------ */

enum scsi_command {
    SCSI_TEST_UNIT_READY = 0x00,
    SCSI_REQUEST_SENSE = 0x03,
    SCSI_READ_CAPACITY = 0x25,
    SCSI_EVENT_STATUS = 0x4a,
    SCSI_READ_12 = 0xa8,
};
#define SENSE_BYTES       18u
#define SENSE_NOT_READY   2u
#define SENSE_ATTENTION   6u
#define ASC_NO_MEDIUM     0x3au
#define ASCQ_TRAY_CLOSED  1u
#define ASCQ_TRAY_OPEN    2u
#define CAPACITY_BYTES    8u
#define EVENT_POLLED      1u
#define EVENT_MEDIA       0x10u /* asked for */
#define EVENT_CLASS_MEDIA 4u    /* told */
#define EVENT_TRAY_OPEN   1u
#define EVENT_BYTES       8u
#endif

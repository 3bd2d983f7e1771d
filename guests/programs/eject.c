/* Opens the tray of the CD-ROM drive that its argument names, as eject(1) does; busybox here has none. */
#include <fcntl.h>
#include <stdio.h>
#include <sys/ioctl.h>

#include <linux/cdrom.h>

int main(int count, char **arguments)
{
    int drive = open(count > 1 ? arguments[1] : "/dev/sr0", O_RDONLY | O_NONBLOCK);

    if (drive < 0 || ioctl(drive, CDROM_LOCKDOOR, 0) < 0 || ioctl(drive, CDROMEJECT) < 0) {
        perror("eject");
        return 1;
    }
    return 0;
}

/// Reports app opens to firstopen, and returns the screen to show.
library;

export 'src/client.dart';
export 'src/phone.dart';

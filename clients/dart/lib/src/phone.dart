/// What Google Play returns: its raw string, and two times in Unix seconds (0 if unknown).
typedef PlayReferrer = ({String? raw, int clickedAt, int installBeganAt});

/// What the phone provides. The README shows one for Flutter.
abstract interface class Phone {
  /// `ios`, `android`, or any other name, which is not sent.
  String get os;

  String? get appVersion;

  /// Reads and writes text by key, where no backup carries it to a second phone.
  Future<String?> read(String key);
  Future<void> write(String key, String value);

  Future<DateTime?> installedAt();

  /// Asked on Android only.
  Future<PlayReferrer?> installReferrer();

  /// Asked on iOS only. Must not show the system's paste question.
  Future<bool> clipboardHasText();

  /// May make iOS ask the person.
  Future<String?> readClipboard();
}
